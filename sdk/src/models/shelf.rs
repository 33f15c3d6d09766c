//! Which models are held, which are being loaded, and which one goes. Never waits and loads nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Error, Result};

/// Failed loads that are kept for those who wait for them.
const FAILURES_MAX: usize = 256;

/// What somebody who asks for a model is to do.
#[derive(Debug)]
#[must_use]
pub(super) enum Found<T> {
    /// Use it.
    Held(Arc<T>),
    /// It was waited for, and could not be loaded.
    Failed(Error),
    /// Ask again when something has changed, with this.
    Wait(Ticket),
    /// Load it, and say what came of it. `dropped` went for it.
    Load {
        /// Models that are not held any more.
        dropped: Vec<Arc<T>>,
    },
}

/// For whoever waits: which load it waits for; 0: for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// See the module. Invariant: at most `max` are held or being loaded, unless `max` was lowered.
pub(super) struct Shelf<T> {
    max: usize,
    models: HashMap<String, Model<T>>,
    /// Counts uses, and names loads.
    count: u64,
    /// Loads that failed, for those who wait for them.
    failed: HashMap<u64, Failure>,
    /// Somebody has just come back with this.
    ticket: Ticket,
}

enum Model<T> {
    Held { model: Arc<T>, used: u64 },
    Loading { number: u64, waiting: usize },
}

struct Failure {
    id: String,
    code: Option<u16>,
    text: String,
    waiting: usize,
}

impl<T> Shelf<T> {
    pub(super) fn new(max: usize) -> Self {
        let (models, failed) = (HashMap::new(), HashMap::new());
        Self { max: max.max(1), models, count: 0, failed, ticket: Ticket(0) }
    }

    pub(super) fn set_max(&mut self, max: usize) {
        self.max = max.max(1);
    }

    /// Whoever waited asks again, next.
    pub(super) fn look_again(&mut self, ticket: Ticket) {
        self.ticket = ticket;
    }

    pub(super) fn find(&mut self, id: &str) -> Found<T> {
        self.count += 1;
        let Ticket(waited_for) = std::mem::replace(&mut self.ticket, Ticket(0));
        if let Some(failure) = self.failed.get_mut(&waited_for).filter(|failure| failure.id == id) {
            failure.waiting -= 1;
            let error = failure.error();
            if failure.waiting == 0 {
                self.failed.remove(&waited_for);
            }
            return Found::Failed(error);
        }
        match self.models.get_mut(id) {
            Some(Model::Held { model, used }) => {
                *used = self.count;
                return Found::Held(Arc::clone(model));
            }
            Some(Model::Loading { number, waiting }) => {
                *waiting += usize::from(*number != waited_for);
                return Found::Wait(Ticket(*number));
            }
            None => {}
        }
        let mut dropped = Vec::new();
        while self.models.len() >= self.max {
            match self.oldest().and_then(|id| self.models.remove(&id)) {
                Some(Model::Held { model, .. }) => dropped.push(model),
                // All that there is room for are being loaded.
                _ => return Found::Wait(Ticket(0)),
            }
        }
        self.models.insert(id.to_owned(), Model::Loading { number: self.count, waiting: 0 });
        Found::Load { dropped }
    }

    /// What came of a load.
    pub(super) fn loaded(&mut self, id: &str, made: Result<T>) -> Result<Arc<T>> {
        self.count += 1;
        let Some(Model::Loading { number, waiting }) = self.models.remove(id) else {
            return made.map(Arc::new);
        };
        match made {
            Ok(model) => {
                let model = Arc::new(model);
                let held = Model::Held { model: Arc::clone(&model), used: self.count };
                self.models.insert(id.to_owned(), held);
                Ok(model)
            }
            Err(error) => {
                if waiting > 0 {
                    let code = error.code().map(|code| code.as_u16());
                    let failure = Failure { id: id.to_owned(), code, text: error.chain(), waiting };
                    self.failed.insert(number, failure);
                    self.forget_old_failures();
                }
                Err(error)
            }
        }
    }

    /// All that are held or being loaded, the one that was used longest ago first.
    pub(super) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<(u64, &String)> = (self.models.iter())
            .map(|(id, model)| match model {
                Model::Held { used, .. } => (*used, id),
                Model::Loading { number, .. } => (*number, id),
            })
            .collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id.clone()).collect()
    }

    /// Who waited for them has left without a word.
    fn forget_old_failures(&mut self) {
        if self.failed.len() > FAILURES_MAX
            && let Some(first) = self.failed.keys().min().copied()
        {
            self.failed.remove(&first);
        }
    }

    fn oldest(&self) -> Option<String> {
        let held = self.models.iter().filter_map(|(id, model)| match model {
            Model::Held { used, .. } => Some((*used, id)),
            Model::Loading { .. } => None,
        });
        held.min().map(|(_, id)| id.clone())
    }
}

impl Failure {
    fn error(&self) -> Error {
        match self.code {
            Some(code) => Error::status(code, &self.text),
            None => Error::msg(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(shelf: &mut Shelf<String>, id: &str) -> Vec<String> {
        let Found::Load { dropped } = shelf.find(id) else { panic!("{id} is not to be loaded") };
        let _ = shelf.loaded(id, Ok(id.to_uppercase())).unwrap();
        dropped.iter().map(|model| model.to_string()).collect()
    }

    fn is_held(shelf: &mut Shelf<String>, id: &str) -> bool {
        matches!(shelf.find(id), Found::Held(model) if *model == id.to_uppercase())
    }

    #[test]
    fn the_one_that_was_used_longest_ago_goes_first() {
        let mut shelf = Shelf::new(2);
        assert!(load(&mut shelf, "a").is_empty() && load(&mut shelf, "b").is_empty());
        assert!(is_held(&mut shelf, "a"));
        assert_eq!(load(&mut shelf, "c"), ["B"]);
        assert_eq!(shelf.ids(), ["a", "c"]);
        shelf.set_max(1);
        assert_eq!(load(&mut shelf, "d"), ["A", "C"]);
    }

    #[test]
    fn one_id_is_loaded_once() {
        let mut shelf = Shelf::new(2);
        assert!(matches!(shelf.find("a"), Found::Load { .. }));
        let Found::Wait(ticket) = shelf.find("a") else { panic!("it is being loaded") };
        shelf.look_again(ticket);
        assert!(matches!(shelf.find("a"), Found::Wait(again) if again == ticket), "nothing has changed yet");
        let _ = shelf.loaded("a", Ok("A".to_owned())).unwrap();
        shelf.look_again(ticket);
        assert!(is_held(&mut shelf, "a"));
    }

    #[test]
    fn an_error_reaches_those_who_wait_and_nobody_after_them() {
        let mut shelf = Shelf::new(2);
        assert!(matches!(shelf.find("a"), Found::Load { .. }));
        let tickets = [shelf.find("a"), shelf.find("a")].map(|found| match found {
            Found::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        });
        assert!(shelf.loaded("a", Err(Error::status(404, "no such model"))).is_err());
        for ticket in tickets {
            shelf.look_again(ticket);
            let Found::Failed(error) = shelf.find("a") else { panic!("it failed") };
            assert_eq!((error.code().unwrap().as_u16(), error.message()), (404, "no such model"));
        }
        assert!(shelf.failed.is_empty());
        assert!(load(&mut shelf, "a").is_empty());
    }

    #[test]
    fn where_all_are_being_loaded_others_wait_for_room() {
        let mut shelf = Shelf::new(1);
        assert!(matches!(shelf.find("a"), Found::Load { .. }));
        assert!(matches!(shelf.find("b"), Found::Wait(Ticket(0))));
        let _ = shelf.loaded("a", Ok("A".to_owned())).unwrap();
        assert_eq!(load(&mut shelf, "b"), ["A"]);
    }
}
