//! The supervisor's probe: answered once every worker has turned since it came, so that one that is wedged is found as
//! well as a process that is stopped. Knows neither threads nor the supervisor.

/// The probe that is under way, if one is.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    sequence: u64,
    workers_left: usize,
}

impl Pulse {
    /// Takes a probe that so many workers are to answer; one before it is forgotten.
    pub(super) fn ask(&mut self, sequence: u64, workers: usize) {
        self.probe = Some(Probe { sequence, workers_left: workers });
    }

    /// A worker has turned since this probe. True: the last one that was to.
    pub(super) fn turned(&mut self, sequence: u64) -> bool {
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.sequence == sequence) else {
            return false;
        };
        probe.workers_left = probe.workers_left.saturating_sub(1);
        self.probe.take_if(|probe| probe.workers_left == 0).is_some()
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
