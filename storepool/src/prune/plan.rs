//! The plan of a prune: for each pack what becomes of it and why. Pure: facts in, fates out.

use crate::id::PackId;
use crate::index::PackNo;
use crate::pack::PackKind;

/// Packs shorter than this part of a full one are small.
const SMALL_SHARE: u64 = 4;
/// So many small packs of one kind are gathered into full ones; fewer are left alone, else each prune would copy them again.
const SMALL_PACKS_LEAST: usize = 24;

/// What is known of a pack before the plan is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackUse {
    /// Its number in the index.
    pub no: PackNo,
    /// Its name.
    pub id: PackId,
    /// What it holds.
    pub kind: PackKind,
    /// Bytes of the file.
    pub length: u64,
    /// Bytes of the file that no point needs.
    pub unused_bytes: u64,
    /// Number of its chunks.
    pub chunks: u64,
    /// Number of its chunks that some point needs.
    pub needed_chunks: u64,
    /// Whether it may be touched.
    pub standing: Standing,
}

/// Whether a pack may be touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be deleted or copied.
    Free,
    /// An earlier prune found that nothing needs it.
    Condemned,
    /// A running session may have written it for a point that does not exist yet.
    InUse,
    /// Its directory is not there or its table of contents cannot be read.
    Unreadable,
}

/// What becomes of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It stays.
    Keep,
    /// It stays: a running session may need it.
    KeepInUse,
    /// It stays: it cannot be read, so nothing is known about it. See `check` and `repair`.
    KeepUnreadable,
    /// It was condemned, but a point needs it: it is taken back.
    Pardon,
    /// No point needs it: it goes.
    Delete,
    /// Too little of it is needed: what is needed is copied, then it goes.
    RepackPoor,
    /// It is one of many small packs: they are copied into full ones.
    RepackSmall,
}

impl Fate {
    /// Returns whether the pack is copied before it goes.
    pub fn is_repack(self) -> bool {
        matches!(self, Self::RepackPoor | Self::RepackSmall)
    }
}

/// A pack and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackPlan {
    /// The pack.
    pub pack: PackUse,
    /// Its fate.
    pub fate: Fate,
}

/// Which packs are worth copying.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanLimits {
    /// Poorest packs are copied until unused bytes are at most this share of all, in percent.
    pub max_unused_percent: f64,
    /// Every pack with anything unused is copied.
    pub repack_all: bool,
    /// Length of a full pack in bytes.
    pub pack_length: u64,
}

/// What a prune will do, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunePlan {
    /// Every pack, in order of its number.
    pub packs: Vec<PackPlan>,
}

impl PrunePlan {
    /// Makes the plan.
    pub fn new(packs: Vec<PackUse>, limits: &PlanLimits) -> Self {
        let mut packs: Vec<_> = packs
            .into_iter()
            .map(|pack| PackPlan { fate: first_fate(&pack, limits), pack })
            .collect();
        repack_poor(&mut packs, limits);
        repack_small(&mut packs, limits);
        Self { packs }
    }

    /// Returns the packs with this property of their fate.
    pub fn with(&self, fate: impl Fn(Fate) -> bool) -> impl Iterator<Item = &PackUse> {
        self.packs.iter().filter(move |plan| fate(plan.fate)).map(|plan| &plan.pack)
    }

    /// Returns how many packs have this fate.
    pub fn count(&self, fate: Fate) -> u64 {
        self.with(|other| other == fate).count() as u64
    }

    /// Returns the bytes that are not needed after the plan was carried out.
    pub fn unused_bytes_left(&self) -> u64 {
        self.with(|fate| fate != Fate::Delete && !fate.is_repack())
            .filter(|pack| {
                pack.standing != Standing::InUse && pack.standing != Standing::Unreadable
            })
            .map(|pack| pack.unused_bytes)
            .sum()
    }

    /// Returns about how many bytes the plan frees: recompressed frames may take a little more or less.
    pub fn bytes_freed(&self) -> u64 {
        self.with(|fate| fate == Fate::Delete || fate.is_repack())
            .map(|pack| pack.unused_bytes)
            .sum()
    }
}

fn first_fate(pack: &PackUse, limits: &PlanLimits) -> Fate {
    match pack.standing {
        Standing::Unreadable => Fate::KeepUnreadable,
        Standing::Condemned if pack.needed_chunks > 0 => Fate::Pardon,
        Standing::Condemned => Fate::Delete,
        Standing::InUse => Fate::KeepInUse,
        Standing::Free if pack.needed_chunks == 0 => Fate::Delete,
        Standing::Free if limits.repack_all && pack.needed_chunks < pack.chunks => Fate::RepackPoor,
        Standing::Free => Fate::Keep,
    }
}

fn repack_poor(packs: &mut [PackPlan], limits: &PlanLimits) {
    let kept = packs.iter_mut().filter(|plan| plan.fate == Fate::Keep);
    let mut kept: Vec<_> = kept.collect();
    let mut total: u64 = kept.iter().map(|plan| plan.pack.length).sum();
    let mut unused: u64 = kept.iter().map(|plan| plan.pack.unused_bytes).sum();
    kept.sort_by(|one, other| share(&other.pack).total_cmp(&share(&one.pack)));
    for plan in kept {
        let enough = unused as f64 <= total as f64 * limits.max_unused_percent / 100.0;
        if enough || plan.pack.unused_bytes == 0 {
            break;
        }
        plan.fate = Fate::RepackPoor;
        unused -= plan.pack.unused_bytes;
        total -= plan.pack.unused_bytes;
    }
}

fn repack_small(packs: &mut [PackPlan], limits: &PlanLimits) {
    for kind in [PackKind::Data, PackKind::Metadata] {
        let small = |plan: &&mut PackPlan| {
            plan.fate == Fate::Keep
                && plan.pack.kind == kind
                && plan.pack.length < limits.pack_length / SMALL_SHARE
        };
        let small: Vec<_> = packs.iter_mut().filter(small).collect();
        if small.len() >= SMALL_PACKS_LEAST {
            small.into_iter().for_each(|plan| plan.fate = Fate::RepackSmall);
        }
    }
}

fn share(pack: &PackUse) -> f64 {
    pack.unused_bytes as f64 / pack.length.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PlanLimits =
        PlanLimits { max_unused_percent: 10.0, repack_all: false, pack_length: 1000 };

    fn pack(no: i64, unused: u64, standing: Standing) -> PackUse {
        PackUse {
            no: PackNo(no),
            id: PackId([no as u8; 32]),
            kind: PackKind::Data,
            length: 1000,
            unused_bytes: unused,
            chunks: 100,
            needed_chunks: 100 - unused / 10,
            standing,
        }
    }

    fn fates(plan: &PrunePlan) -> Vec<Fate> {
        plan.packs.iter().map(|plan| plan.fate).collect()
    }

    #[test]
    fn the_poorest_packs_are_copied_until_the_rest_is_good_enough() {
        let packs = [0, 300, 50, 600, 100].iter().zip(1..);
        let packs = packs.map(|(unused, no)| pack(no, *unused, Standing::Free)).collect();

        let plan = PrunePlan::new(packs, &LIMITS);

        // 1,050 of 5,000 bytes are unused; without the worst 450 of 4,400, without the next 150 of 4,100.
        let expected = [Fate::Keep, Fate::RepackPoor, Fate::Keep, Fate::RepackPoor, Fate::Keep];
        assert_eq!(fates(&plan), expected);
        assert_eq!((plan.bytes_freed(), plan.unused_bytes_left()), (900, 150));
    }

    #[test]
    fn what_must_not_be_touched_is_kept_whatever_it_holds() {
        let packs = vec![
            pack(1, 1000, Standing::InUse),
            pack(2, 1000, Standing::Unreadable),
            pack(3, 1000, Standing::Condemned),
            pack(4, 990, Standing::Condemned),
            pack(5, 1000, Standing::Free),
        ];

        let plan = PrunePlan::new(packs, &PlanLimits { repack_all: true, ..LIMITS });

        let expected =
            [Fate::KeepInUse, Fate::KeepUnreadable, Fate::Delete, Fate::Pardon, Fate::Delete];
        assert_eq!(fates(&plan), expected);
    }

    #[test]
    fn many_small_packs_are_gathered_and_few_are_left_alone() {
        for (count, fate) in [(23, Fate::Keep), (24, Fate::RepackSmall)] {
            let packs = (0..count)
                .map(|no| PackUse { length: 100, ..pack(no, 0, Standing::Free) })
                .collect();

            let plan = PrunePlan::new(packs, &LIMITS);

            assert!(fates(&plan).iter().all(|found| *found == fate), "{count} packs");
        }
    }
}
