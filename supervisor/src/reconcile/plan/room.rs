//! Room on the machine: a replica starts where what it needs is free; where there is none for a replica more than are
//! wanted, an update takes one down first.

use crate::capacity::{Reservation, Shortage};
use crate::desired::Wanted;
use crate::reconcile::deployment::Deployment;
use crate::reconcile::plan::Planner;
use crate::reconcile::replica::Replica;
use crate::reconcile::takedown::TakeDown;

/// Whether an update has room for a replica more than are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Crowded {
    /// It has, or needs none.
    No,
    /// It has not: old ones go first.
    Yes(Shortage),
    /// It has not, and a new one would not fit either after as many had gone as may.
    InVain,
}

impl<'a> Planner<'a> {
    /// Looks whether there is room for one replica more than are wanted, those that are still to be started counted in.
    /// What is on its way out has room no longer: so the answer stays the same while one goes and its successor comes.
    pub(super) fn crowded(
        &mut self,
        wanted: &Wanted,
        deployment: &Deployment,
        (kept, old): (&[&Replica], &[&Replica]),
    ) -> Crowded {
        let (needs, number) = (&wanted.spec.resources, deployment.number());
        // Of a set the old version is held until it changes over: also where the last of it has made room.
        let is_held = deployment.awaits_turn() && !deployment.is_halted() && wanted.before.is_some();
        // Beside a trial there is to be an old version, also where none is there now.
        let is_beside = deployment.is_trying() && wanted.before.is_some();
        if (old.is_empty() && !is_held && !is_beside) || needs.is_empty() {
            return Crowded::No;
        }
        let there = u32::try_from(kept.len() + old.len()).unwrap_or(u32::MAX);
        let mut room = self.room_soon(&[]);
        let has_its_part = self.earmarked.contains_key(&wanted.spec.name);
        let mut missing = (there..=number).skip(usize::from(has_its_part));
        let shortage = missing.find_map(|_| room.reserve(needs).err());
        let Some(shortage) = shortage else { return Crowded::No };
        // One that were started beside the trial would have to go at once, and so on for ever.
        if has_its_part || (old.is_empty() && is_beside) {
            return Crowded::Yes(shortage);
        }
        let down_max = wanted.spec.rollout.max_unavailable.floor_of(number).max(1) as usize;
        let first = &old[..down_max.min(old.len())];
        match self.room_soon(first).reserve(needs) {
            Ok(_) => Crowded::Yes(shortage),
            Err(shortage) => {
                let why =
                    format!("there is no room for the next version, whoever of the old goes: it {shortage}");
                self.wait_for_room(wanted, why);
                Crowded::InVain
            }
        }
    }

    /// Sets aside what a replica of this form needs. `None`: it has to wait.
    pub(super) fn set_aside(&mut self, form: &Wanted) -> Option<Reservation> {
        let (name, needs) = (&form.spec.name, &form.spec.resources);
        let earmarked = self.earmarked.get(name).is_some_and(|held| held.resources == *needs);
        if let Some(reservation) = earmarked.then(|| self.earmarked.remove(name)).flatten() {
            return Some(reservation);
        }
        match self.room.reserve(needs) {
            Ok(reservation) => {
                self.reserved.push(reservation.clone());
                Some(reservation)
            }
            Err(shortage) if self.room_soon(&[]).reserve(needs).is_ok() => {
                let why = format!("the next replica {shortage}; others are on their way out");
                self.hold(name, None, why);
                None
            }
            Err(shortage) => {
                self.wait_for_room(form, format!("there is no room for another replica: it {shortage}"));
                None
            }
        }
    }

    fn wait_for_room(&mut self, form: &Wanted, why: String) {
        let name = &form.spec.name;
        self.hold(name, None, why.clone());
        self.report.short_of_room.entry(name.clone()).or_insert(why);
    }

    /// What is free once everything has gone that is on its way out, and these have as well.
    fn room_soon(&self, without: &[&Replica]) -> crate::capacity::Room<'a> {
        let goes = |replica: &Replica| {
            !replica.is_active()
                || self.doomed.contains(&replica.id)
                || without.iter().any(|gone| gone.id == replica.id)
        };
        let mut room = self.observed.room_beside(|replica| !goes(replica));
        self.reserved.iter().for_each(|reservation| room.take(reservation));
        room
    }
}

/// Why one goes before its successor starts.
pub(super) fn first_down(why: &str, shortage: &Shortage, left: &TakeDown) -> String {
    let meanwhile = if left.available() == 0 { "; until that one is ready none serves" } else { "" };
    format!("{why}, before its successor starts, for there is no room for both: it {shortage}{meanwhile}")
}

#[cfg(test)]
mod in_world;
