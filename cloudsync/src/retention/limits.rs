//! What no policy of a vault may go below, and how many points one data source may have there.

use std::fmt;

use super::{Count, Period, RetentionPolicy};

/// Most points of one data source in a vault. A ceiling at which new points are refused, not an order of
/// eviction: so nobody can push old points out with a flood of new ones.
pub const POINTS_PER_SOURCE: usize = 9_999;
/// From so many points of one data source on, there is a warning: 95 % of the most.
pub const POINTS_WARNING: usize = POINTS_PER_SOURCE * 95 / 100;

/// What a policy without limit is cut down to when it must fit: more periods than anybody will look back.
const PERIODS_MOST: [(Period, u32); 5] = [
    (Period::Year, 100),
    (Period::Month, 240),
    (Period::Week, 520),
    (Period::Day, 3_650),
    (Period::Hour, 8_760),
];

/// Returns the least that a vault keeps while security is enabled: who has broken into a server cannot make it
/// forget all at once what it was.
pub fn floor() -> RetentionPolicy {
    RetentionPolicy {
        daily: Count::Limited(7),
        weekly: Count::Limited(4),
        monthly: Count::Limited(3),
        yearly: Count::Limited(1),
        ..RetentionPolicy::default()
    }
}

impl RetentionPolicy {
    /// Returns the policy nearest to this one that holds at most `most` points: the longest memory is kept, the
    /// finest steps give way.
    pub fn fitting(&self, most: u64) -> Self {
        let mut left = u32::try_from(most).unwrap_or(u32::MAX);
        let mut take = |wanted: Count, unlimited: u32| {
            let wanted = match wanted {
                Count::None => 0,
                Count::Limited(count) => count,
                Count::Unlimited => unlimited,
            };
            let taken = wanted.min(left);
            left -= taken;
            if taken == 0 { Count::None } else { Count::Limited(taken) }
        };
        let mut fitting = Self { tags: self.tags.clone(), ..Self::default() };
        for (period, unlimited) in PERIODS_MOST {
            let taken = take(self.count(period), unlimited);
            *fitting.count_mut(period) = taken;
        }
        fitting.last = take(self.last, u32::MAX);
        fitting
    }

    /// Returns this policy, raised to `floor` wherever it asks for less.
    pub fn raised_to(&self, floor: &Self) -> Self {
        let mut raised = self.clone();
        for (period, _, least) in self.below(floor) {
            *raised.count_mut(period) = least;
        }
        raised
    }

    pub(super) fn count(&self, period: Period) -> Count {
        match period {
            Period::Hour => self.hourly,
            Period::Day => self.daily,
            Period::Week => self.weekly,
            Period::Month => self.monthly,
            Period::Year => self.yearly,
        }
    }

    fn count_mut(&mut self, period: Period) -> &mut Count {
        match period {
            Period::Hour => &mut self.hourly,
            Period::Day => &mut self.daily,
            Period::Week => &mut self.weekly,
            Period::Month => &mut self.monthly,
            Period::Year => &mut self.yearly,
        }
    }
}

impl fmt::Display for RetentionPolicy {
    /// As it stands in the configuration: `{ daily = 7, yearly = "all" }`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let counts = [("last", self.last)]
            .into_iter()
            .chain(self.periods().map(|(period, count)| (period.word(), count)));
        for (word, count) in counts {
            match count {
                Count::None => {}
                Count::Limited(count) => parts.push(format!("{word} = {count}")),
                Count::Unlimited => parts.push(format!("{word} = \"all\"")),
            }
        }
        if let Some(within) = self.within {
            parts.push(format!("within = \"{within}\""));
        }
        if !self.tags.is_empty() {
            let tags: Vec<_> = self.tags.iter().map(|tag| format!("{tag:?}")).collect();
            parts.push(format!("tags = [{}]", tags.join(", ")));
        }
        match parts.is_empty() {
            true => f.write_str("{}"),
            false => write!(f, "{{ {} }}", parts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_too_large_loses_its_finest_steps_first() {
        let policy = RetentionPolicy {
            last: Count::Limited(100),
            hourly: Count::Unlimited,
            daily: Count::Limited(180),
            yearly: Count::Unlimited,
            ..RetentionPolicy::default()
        };

        let fitting = policy.fitting(POINTS_PER_SOURCE as u64);
        assert_eq!(fitting.to_string(), "{ last = 100, hourly = 8760, daily = 180, yearly = 100 }");
        assert_eq!(fitting.fitting(POINTS_PER_SOURCE as u64), fitting);
        let small = policy.fitting(150);
        assert_eq!(small.to_string(), "{ daily = 50, yearly = 100 }");
        assert_eq!(small.points_most(), Some(150));
    }

    #[test]
    fn a_policy_below_the_floor_is_raised_exactly_to_it() {
        let policy = RetentionPolicy {
            daily: Count::Limited(3),
            monthly: Count::Limited(12),
            ..RetentionPolicy::default()
        };

        let raised = policy.raised_to(&floor());

        assert_eq!(raised.to_string(), "{ daily = 7, weekly = 4, monthly = 12, yearly = 1 }");
        assert!(raised.below(&floor()).is_empty());
        assert_eq!(RetentionPolicy::default().to_string(), "{}");
    }
}
