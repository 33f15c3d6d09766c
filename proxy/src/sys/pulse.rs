//! What every worker is to answer before the supervisor is answered: its probe, so that one that is wedged is found as
//! well as a process that is stopped, and its settings, which count once all go by them. Knows neither threads nor the
//! supervisor.

/// The question that is under way, if one is.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    sequence: u64,
    workers_left: usize,
}

impl Pulse {
    /// Takes a question that so many workers are to answer; one before it is forgotten.
    pub(super) fn ask(&mut self, sequence: u64, workers: usize) {
        self.asked = Some(Asked { sequence, workers_left: workers });
    }

    /// A worker has turned since this question. True: the last one that was to.
    pub(super) fn turned(&mut self, sequence: u64) -> bool {
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.sequence == sequence) else {
            return false;
        };
        asked.workers_left = asked.workers_left.saturating_sub(1);
        self.asked.take_if(|asked| asked.workers_left == 0).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_worker_gives_the_answer_and_one_that_is_wedged_keeps_it_back() {
        let mut pulse = Pulse::default();
        pulse.ask(1, 3);
        assert!(!pulse.turned(1) && !pulse.turned(1));
        // The third one turns after the next probe only: that is no answer to it.
        pulse.ask(2, 3);
        assert!(!pulse.turned(1));
        assert!(!pulse.turned(2) && !pulse.turned(2) && pulse.turned(2));
        assert!(!pulse.turned(2));
    }
}
