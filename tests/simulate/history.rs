//! One history from its beginning to its end: each step is done, by one server or by two at once, and then everything promised is looked for.

use std::time::Duration;

use storepool::clock::Clock;

use crate::bond::{Deed, Fence, Sight, learn};
use crate::host::{Host, runtime};
use crate::machine::{Fate, Scope};
use crate::promises::Promises;
use crate::script::{Company, Op, Script, Step, calm};
use crate::server::{Places, Server, is_local, is_online};
use crate::work::{Outcome, Work, perform};

/// What was not as promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The number of the step after which it showed.
    pub(crate) step: usize,
    /// What it is.
    pub(crate) what: String,
}

/// Lives a history; returns all that was done to the disks, line by line.
pub(crate) fn live(script: &Script) -> Result<String, Failure> {
    let mut history = History::new(script);
    for (step, what) in script.steps.iter().enumerate() {
        history.step(what).map_err(|what| Failure { step, what })?;
    }
    history.end().map_err(|what| Failure { step: script.steps.len(), what })?;
    Ok(history.servers[0].host.machine.trace())
}

struct History {
    servers: Vec<Server>,
    company: Company,
    // Once the machine was copied.
    fence: Option<Fence>,
}

// What a second process does in the same step.
struct Second {
    who: usize,
    work: Work,
    seed: u64,
}

impl History {
    fn new(script: &Script) -> Self {
        let host = Host::new(script.seed, script.disks);
        let neighbour = (script.company == Company::Neighbour).then(|| host.neighbour());
        let servers = [host].into_iter().chain(neighbour).map(Server::new).collect();
        Self { servers, company: script.company, fence: None }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        let who = step.who.min(self.servers.len() - 1);
        self.servers[0].host.machine.note(&format!("{step:?}"));
        match step.op {
            Op::Twin if self.company == Company::Twin && self.fence.is_none() => {
                return self.copy_machine();
            }
            Op::Adopt if self.fence.as_ref().is_some_and(|fence| fence.is_off(who)) => {
                return self.adopt(who);
            }
            Op::Pass { hours } => {
                self.pass(hours);
                return Ok(());
            }
            // A rewound vault and a second writer are told apart by nobody.
            Op::Twin | Op::Adopt | Op::Rewind if self.fence.is_some() => return Ok(()),
            _ => {}
        }
        match self.servers[who].pick(step.op) {
            Some(work) => self.work(step, who, &work),
            None => self.servers[who].happen(step.op),
        }
    }

    fn work(&mut self, step: &Step, who: usize, work: &Work) -> Result<(), String> {
        let second = self.second(step, who, work);
        let company: Vec<usize> =
            [Some(who), second.as_ref().map(|it| it.who)].into_iter().flatten().collect();
        company.iter().for_each(|server| self.servers[*server].begin());
        self.servers[who].announce(work);
        if let Some(second) = &second {
            self.servers[second.who].announce(&second.work);
        }
        let before = self.fence.is_some().then(|| (self.sight(), self.promises()));

        let (outcome, beside) = self.run(step, who, work, second.as_ref());
        self.servers[who].host.restart(step.death, step.index);

        let is_doubtful = self.fence.as_ref().is_some_and(|fence| !fence.may_write(who));
        let server = &self.servers[who];
        let is_troubled = server.is_hurt() || server.host.network.is_busy() || is_doubtful;
        let excused = !step.is_calm() || second.is_some() || is_troubled;
        let mut deeds = vec![deed(who, work, &outcome)];
        self.servers[who].conclude(step, work, outcome, excused)?;
        if let (Some(second), Some(outcome)) = (&second, beside) {
            deeds.push(deed(second.who, &second.work, &outcome));
            self.servers[second.who].conclude(step, &second.work, outcome, true)?;
        }
        let works = [Some(work), second.as_ref().map(|second| &second.work)];
        let works: Vec<_> = works.into_iter().flatten().collect();
        let vault = works.iter().any(|work| is_online(work) || matches!(work, Work::VaultCheck));
        if let Some((sight, promises)) = before {
            let after = self.sight();
            self.fence.as_mut().expect("it was there").judge(&sight, &after, &deeds)?;
            self.share(&promises);
        }
        // Who did something knows best which points there are.
        let mut order = company.clone();
        order.extend(0..self.servers.len());
        for (place, server) in order.iter().copied().enumerate() {
            if order[..place].contains(&server) {
                continue;
            }
            let is_local = |(who, work): (&usize, &&Work)| *who == server && is_local(work);
            let pool = company.iter().zip(&works).any(is_local);
            self.look(server, Places { pool, vault })?;
        }
        Ok(())
    }

    // Two that hold the same lock of a vault do not meet; two machines do.
    fn second(&self, step: &Step, who: usize, work: &Work) -> Option<Second> {
        let (op, seed) = step.beside?;
        let is_other = self.servers.len() > 1 && seed & 1 == 1;
        let who_else = if is_other { 1 - who } else { who };
        let other = self.servers[who_else].pick(op)?;
        let collide = !is_other && is_online(work) && is_online(&other);
        (!collide).then_some(Second { who: who_else, work: other, seed })
    }

    fn run(
        &mut self,
        step: &Step,
        who: usize,
        work: &Work,
        second: Option<&Second>,
    ) -> (Outcome, Option<Outcome>) {
        let process = self.servers[who].host.start(step.fate);
        let line = self.servers[who].host.line(&process, step.troubles.clone());
        let Some(Second { who: other, work: other_work, seed }) = second else {
            return (perform(&self.servers[who].host, work, &process, &line), None);
        };
        let beside = self.servers[*other].host.start(Fate::Lives);
        let quiet = self.servers[*other].host.line(&beside, Vec::new());
        let (host, other) = (&self.servers[who].host, &self.servers[*other].host);
        host.machine.schedule(&[process.pid(), beside.pid()], *seed);
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| {
                let _ended = Ended { host, pid: beside.pid() };
                host.machine.await_first_turn(beside.pid());
                perform(other, other_work, &beside, &quiet)
            });
            let outcome = {
                let _ended = Ended { host, pid: process.pid() };
                host.machine.await_first_turn(process.pid());
                perform(host, work, &process, &line)
            };
            (outcome, Some(beside.join().expect("nothing panics")))
        })
    }

    fn look(&mut self, who: usize, places: Places) -> Result<(), String> {
        let promises = self.promises();
        self.servers[who].look(places)?;
        if self.fence.is_some() {
            self.share(&promises);
        }
        Ok(())
    }

    // Of two copies of one machine each knows what the vault promised to the other.
    fn share(&mut self, before: &Promises) {
        let [one, other] = &mut self.servers[..] else { return };
        learn(&mut one.promises, &other.promises, before);
        learn(&mut other.promises, &one.promises, before);
    }

    // What is known of the vault; of two copies either knows it.
    fn promises(&self) -> Promises {
        match self.fence {
            Some(_) => self.servers[0].promises.clone(),
            None => Promises::default(),
        }
    }

    // Whatever is under way arrives first: else nobody could say who sent it.
    fn sight(&self) -> Sight {
        self.deliver();
        Sight::of(&self.servers[0].host)
    }

    // Requests that are still under way arrive.
    fn deliver(&self) {
        let host = &self.servers[0].host;
        runtime().block_on(host.network.deliver_all(&host.store));
    }

    fn pass(&mut self, hours: u64) {
        self.servers[0].host.store.advance(Duration::from_secs(hours * 3600));
        for server in &self.servers {
            server.host.clock.shift(hours as i64 * 3_600_000_000_000);
        }
    }

    fn copy_machine(&mut self) -> Result<(), String> {
        self.deliver();
        // What had arrived unheard before is of both.
        self.look(0, Places { pool: true, vault: true })?;
        let twin = self.servers[0].twin();
        self.servers.push(twin);
        self.fence = Some(Fence::default());
        Ok(())
    }

    fn adopt(&mut self, who: usize) -> Result<(), String> {
        self.deliver();
        let adopted = self.servers[who].host.adopt();
        adopted.map_err(|error| format!("taking the server's place back: {error}"))?;
        if let Some(fence) = &mut self.fence {
            fence.claim(who);
        }
        Ok(())
    }

    // Once nothing goes wrong any more, everything comes right by itself.
    fn end(&mut self) -> Result<(), String> {
        self.servers.iter_mut().for_each(Server::plug);
        self.deliver();
        for who in 0..self.servers.len() {
            let everywhere = Places { pool: true, vault: true };
            self.look(who, everywhere).map_err(|what| format!("at the end: {what}"))?;
        }
        for server in &self.servers {
            let clock = &server.host.clock;
            clock.shift(server.host.store.now().0 - clock.now().0);
        }
        let is_second_first = self.fence.as_ref().is_some_and(|fence| fence.is_off(0));
        let mut order: Vec<usize> = (0..self.servers.len()).collect();
        if is_second_first {
            order.reverse();
        }
        for who in order {
            self.end_of(who).map_err(|what| format!("at the end, server {who}, {what}"))?;
        }
        Ok(())
    }

    fn end_of(&mut self, who: usize) -> Result<(), String> {
        if self.fence.as_ref().is_some_and(|fence| !fence.may_write(who)) {
            self.adopt(who)?;
        }
        let is_hurt = self.servers[who].is_hurt();
        let mut do_calmly = |op| {
            let step = Step { who, ..calm(op) };
            self.step(&step).map_err(|what| format!("{op:?}: {what}"))?;
            Ok::<_, String>(self.servers[who].bring_commits_back())
        };
        // What nobody here can mend is brought back from outside, and the rest is healed again.
        if is_hurt && do_calmly(Op::Heal)? {
            do_calmly(Op::Heal)?;
        }
        for op in [
            Op::Rekey,
            Op::Sync,
            Op::Prune { all: true },
            Op::VaultPrune { with_pool: true, all: true },
            Op::Pass { hours: 40 * 24 },
            Op::VaultPrune { with_pool: false, all: false },
            Op::VaultPrune { with_pool: false, all: false },
            Op::Check,
            Op::VaultCheck,
        ] {
            do_calmly(op)?;
        }
        Ok(())
    }
}

fn deed(who: usize, work: &Work, outcome: &Outcome) -> Deed {
    Deed {
        who,
        online: is_online(work),
        committed: matches!(outcome, Outcome::Copied(points) if !points.is_empty()),
        failed: matches!(outcome, Outcome::Failed(_) | Outcome::Died),
    }
}

struct Ended<'a> {
    host: &'a Host,
    pid: u32,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Whoever waits for this one must not wait for ever.
            self.host.machine.die(self.pid, Scope::One);
        }
        self.host.machine.end(self.pid);
    }
}
