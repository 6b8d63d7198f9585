//! The rules by which a commit leads from one state to the next.

use crate::crypto::container::Link;
use crate::layout::{Generation, ObjectHash, ObjectKind};
use crate::vault::commit::{Changes, Commit, CommitKind, ObjectRecord, PointRecord};
use crate::vault::fields::Ordinals;
use crate::vault::snapshot::{ObjectState, Snapshot};

/// Why a commit does not lead from a state to another.
pub(in crate::vault) type Reason = &'static str;

impl Snapshot {
    /// Goes on to the state after a commit. After an error the snapshot is in between and worthless.
    ///
    /// Compares the counts of live points and objects; the digests only if `compare_digests`, because the
    /// last commit's digests prove all those before.
    pub(in crate::vault) fn apply(
        &mut self,
        link: Link,
        hash: ObjectHash,
        commit: &Commit,
        compare_digests: bool,
    ) -> Result<(), Reason> {
        self.check_place(link, commit)?;
        if commit.kind == CommitKind::Claim {
            let (vault, label) = commit.claim.as_ref().ok_or("a claim names no vault and label")?;
            if self.claim.as_ref().is_some_and(|(claimed, _)| claimed != vault) {
                return Err("a claim names another vault than the first one");
            }
            self.claim = Some((*vault, label.clone()));
            self.owner = commit.instance;
        } else if commit.claim.is_some() {
            return Err("only a claim names vault and label");
        }
        self.change(link.generation, &commit.changes)?;
        self.generation = link.generation;
        self.epoch = link.epoch;
        self.head = hash;
        let counts = (self.points.len() as u64, self.live.len() as u64);
        if counts != (commit.state.points, commit.state.objects) {
            return Err("it counts other points or objects than there are");
        }
        if compare_digests && self.digest() != commit.state {
            return Err("it knows other points or objects than there are");
        }
        Ok(())
    }

    /// Goes on behind a commit object of the next generation that nobody can read: it changes nothing.
    pub(in crate::vault) fn pass_over(&mut self, hash: ObjectHash) {
        self.generation = self.generation.next();
        self.head = hash;
    }

    fn check_place(&self, link: Link, commit: &Commit) -> Result<(), Reason> {
        if link.generation != self.generation.next() {
            return Err("it has another generation than its name");
        }
        if link.previous != self.head {
            return Err("it does not follow the commit before");
        }
        if commit.kind != CommitKind::Claim && self.generation == Generation(0) {
            return Err("the first commit is not a claim");
        }
        if link.epoch != self.next_link(commit.kind).epoch {
            return Err("it has the wrong epoch");
        }
        if commit.kind != CommitKind::Claim && commit.instance != self.owner {
            return Err("it was not made by the owner");
        }
        Ok(())
    }

    /// Makes the changes of a commit of this generation, or finds out why it must not be.
    pub(in crate::vault) fn change(
        &mut self,
        generation: Generation,
        changes: &Changes,
    ) -> Result<(), Reason> {
        if let Some(slots) = &changes.slots {
            if slots.revision <= self.slots.revision {
                return Err("its slot set is not newer");
            }
            self.slots = slots.clone();
        }
        if let Some(configuration) = &changes.configuration {
            self.configuration = Some(configuration.clone());
        }
        for record in &changes.objects_added {
            self.add_object(record, &changes.objects_condemned)?;
        }
        for moved in &changes.moved {
            self.move_needs(moved.from, &moved.to)?;
        }
        for point in &changes.points_added {
            self.add_point(point.clone())?;
        }
        for id in &changes.points_forgotten {
            let point = self.points.remove(id).ok_or("it forgets a point that is not there")?;
            self.forgotten.insert(*id, (generation, point));
        }
        for id in &changes.points_restored {
            let (_, point) =
                self.forgotten.remove(id).ok_or("it restores a point that was not forgotten")?;
            self.add_point(point)?;
        }
        for id in &changes.points_gone {
            self.forgotten.remove(id).ok_or("a point is gone that was not forgotten")?;
        }
        for notes in &changes.notes {
            let forgotten = self.forgotten.get_mut(&notes.point).map(|(_, point)| point);
            let point = self.points.get_mut(&notes.point).or(forgotten);
            let point = point.ok_or("it annotates a point that is not there")?;
            point.keep_until = notes.keep_until;
            point.on_demand = notes.on_demand;
            point.tags = notes.tags.clone();
        }
        self.condemn(generation, &changes.objects_condemned)?;
        for ordinal in changes.objects_gone.iter() {
            match self.objects.remove(&ordinal) {
                Some(ObjectState { condemned: Some(_), .. }) => {}
                _ => return Err("an object is gone that was not condemned"),
            }
        }
        Ok(())
    }

    fn add_object(&mut self, record: &ObjectRecord, condemned: &Ordinals) -> Result<(), Reason> {
        let copy = match self.live.get(&record.hash) {
            // Its replacement: the same bytes under the next name.
            Some(ordinal) if condemned.contains(*ordinal) => {
                let replaced = self.objects.get(ordinal);
                replaced.map_or(0, |object| object.record.copy.saturating_add(1))
            }
            Some(_) => return Err("it adds an object that is there already"),
            None => self.next_copy(record.hash),
        };
        if record.copy != copy {
            return Err("it uses the name of a condemned object again");
        }
        self.live.insert(record.hash, self.next_ordinal);
        self.objects.insert(self.next_ordinal, ObjectState { record: *record, condemned: None });
        self.next_ordinal += 1;
        Ok(())
    }

    pub(super) fn add_point(&mut self, point: PointRecord) -> Result<(), Reason> {
        if self.points.contains_key(&point.id) || self.forgotten.contains_key(&point.id) {
            return Err("it adds a point that is there already");
        }
        let within = point.needs.last().is_none_or(|last| last < self.next_ordinal);
        if !within || point.needs.intersects(&self.dead) {
            return Err("a point needs an object that is not there");
        }
        let manifest = self.objects.get(&point.manifest).map(|object| object.record.kind);
        if manifest != Some(ObjectKind::Manifest) {
            return Err("a point's manifest is not a manifest");
        }
        self.points.insert(point.id, point);
        Ok(())
    }

    fn move_needs(&mut self, from: u64, to: &[u64]) -> Result<(), Reason> {
        if !self.objects.contains_key(&from) || !to.iter().all(|ordinal| self.is_live(*ordinal)) {
            return Err("it moves an object that is not there");
        }
        let forgotten = self.forgotten.values_mut().map(|(_, point)| point);
        for point in self.points.values_mut().chain(forgotten) {
            if point.needs.remove(from) {
                for ordinal in to {
                    point.needs.insert(*ordinal);
                }
                // The manifest of a point is one object, so it can only become one.
                if point.manifest == from {
                    point.manifest = match to {
                        [one] => *one,
                        _ => return Err("it divides a manifest"),
                    };
                }
            }
        }
        Ok(())
    }

    fn condemn(&mut self, generation: Generation, ordinals: &Ordinals) -> Result<(), Reason> {
        if ordinals.last().is_some_and(|last| last >= self.next_ordinal) {
            return Err("it condemns an object that is not there");
        }
        if self.points.values().any(|point| point.needs.intersects(ordinals)) {
            return Err("it condemns an object that a point needs");
        }
        for ordinal in ordinals.iter() {
            let object =
                self.objects.get_mut(&ordinal).ok_or("it condemns an object that is not there")?;
            if object.condemned.replace(generation).is_some() {
                return Err("it condemns an object twice");
            }
            // A replacement of the same bytes may be live already.
            if self.live.get(&object.record.hash) == Some(&ordinal) {
                self.live.remove(&object.record.hash);
            }
            self.dead.insert(ordinal);
            self.burials.insert(object.record.hash, object.record.copy + 1);
        }
        Ok(())
    }

    fn is_live(&self, ordinal: u64) -> bool {
        ordinal < self.next_ordinal && !self.dead.contains(ordinal)
    }
}
