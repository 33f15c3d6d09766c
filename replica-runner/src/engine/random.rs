//! Callers and a library that do anything in any order: whatever happens, the limit and the gate hold at every step,
//! and nothing is left at the end. A seed replays.

use super::tests::{Scene, Told};
use super::*;
use decurion_ipc::record::ResponseHead;

const SEEDS: u64 = 150;
const STEPS: usize = 400;
const LIMIT: u32 = 5;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides as u64).expect("below a usize")
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[self.roll(from.len())]) }
    }
}

struct Play {
    scene: Scene,
    dice: Dice,
    /// Of each caller: streams it has not heard the end of, and whether it has sent all of the body.
    streams: Vec<Vec<(StreamId, bool)>>,
    running: Vec<Key>,
    /// Their entries have returned, and they will be ended later.
    later: Vec<Key>,
    configuring: bool,
}

impl Play {
    fn new(seed: u64) -> Self {
        let scene = Scene::new(LIMIT, 3);
        let (streams, running, later) = (vec![Vec::new(); 3], Vec::new(), Vec::new());
        Self { scene, dice: Dice(seed), streams, running, later, configuring: false }
    }

    fn step(&mut self) {
        match self.dice.roll(16) {
            0..=3 => self.open(),
            4 => self.send(),
            5 => self.give_up(),
            6 | 7 => self.listen(),
            8..=10 => self.take(),
            11..=14 => self.handle(),
            _ => match self.dice.roll(12) {
                0 => self.replace_caller(),
                1..=4 => self.configure(),
                _ => drop(self.scene.engine.poll(1)),
            },
        }
        let running = self.running.len() + self.later.len();
        assert!(running <= LIMIT as usize, "the limit holds");
        assert!(!(self.configuring && running > 0), "the gate holds");
    }

    fn open(&mut self) {
        let caller = self.dice.roll(3);
        if self.streams[caller].len() >= 20 {
            return;
        }
        let method = self.dice.pick(&["GET", "GET", "many", "one", "none"]).expect("some");
        let body = vec![1; [0, 10, 5_000][self.dice.roll(3)]];
        let (end, deadline) = (self.dice.roll(3) > 0, [0, 0, 0, 1, 2][self.dice.roll(5)]);
        if let Some(stream) = self.scene.try_open(caller, method, deadline, &body, end) {
            self.streams[caller].push((stream, end));
        }
    }

    fn send(&mut self) {
        let caller = self.dice.roll(3);
        let open = self.streams[caller].iter().position(|(_, ended)| !ended);
        if let Some(place) = open {
            let end = self.dice.roll(2) == 0;
            let stream = self.streams[caller][place].0;
            let whole = self.scene.send(caller, stream, &[2; 30_000], end) == Ok(30_000);
            self.streams[caller][place].1 = end && whole;
        }
    }

    fn give_up(&mut self) {
        let caller = self.dice.roll(3);
        if let Some((stream, _)) = self.dice.pick(&self.streams[caller]) {
            self.scene.callers[caller].cancel(stream);
        }
    }

    /// A caller hears; one that has its answer and has not sent all of the body cuts that off.
    fn listen(&mut self) {
        let caller = self.dice.roll(3);
        self.hear(caller);
    }

    fn hear(&mut self, caller: usize) {
        for told in self.scene.told(caller) {
            if let Told::End(stream) | Told::Reset(stream, _) = told {
                self.streams[caller].retain(|(known, _)| *known != stream);
                self.scene.callers[caller].cancel(stream);
            }
        }
    }

    fn take(&mut self) {
        self.running.extend(self.scene.next());
    }

    fn handle(&mut self) {
        let all: Vec<Key> = self.running.iter().chain(&self.later).copied().collect();
        let Some(key) = self.dice.pick(&all) else { return };
        let head = ResponseHead { status: 200, content_length: None, encoding: 0 };
        let engine = &mut self.scene.engine;
        match self.dice.roll(9) {
            0 | 1 => drop(engine.read(key, &mut [0; 20_000], 1)),
            2 => drop(engine.respond(key, head, &[], b"small")),
            3 => drop(engine.respond(key, head, &[], &[3; 300_000])),
            4 => drop(engine.respond_start(key, head, &[], 1)),
            5 => drop(engine.write(key, &[4; 30_000], 1)),
            6 => drop(engine.finish(key)),
            7 => drop(engine.fail(key, 500, "as the dice fell")),
            _ => self.give_back(key),
        }
        let in_use = |key: &Key| self.scene.engine.in_use(*key).is_some();
        self.later.retain(in_use);
        self.scene.engine.flush();
    }

    /// The entry returns.
    fn give_back(&mut self, key: Key) {
        if self.running.contains(&key) {
            self.running.retain(|running| *running != key);
            let later = self.dice.roll(2) == 0;
            self.scene.engine.entry_returned(key, later);
            if later && self.scene.engine.in_use(key).is_some() {
                self.later.push(key);
            }
        }
    }

    fn replace_caller(&mut self) {
        let caller = self.dice.roll(3);
        self.scene.replace_caller(caller);
        self.streams[caller].clear();
    }

    fn configure(&mut self) {
        if self.configuring {
            self.scene.engine.gate_left(Entry::Exclusive);
            self.configuring = false;
        } else if self.scene.engine.enter_gate(Entry::Exclusive) {
            self.configuring = true;
        }
    }

    /// Everybody finishes what was begun.
    fn end(mut self) {
        if self.configuring {
            self.configure();
        }
        for _ in 0..10_000 {
            self.running.extend(std::iter::from_fn(|| self.scene.next()));
            for key in self.running.drain(..).chain(self.later.drain(..)) {
                self.scene.engine.entry_returned(key, false);
            }
            for caller in 0..3 {
                for (stream, ended) in self.streams[caller].clone() {
                    if !ended {
                        self.scene.callers[caller].end(stream);
                    }
                }
                self.hear(caller);
            }
            self.scene.engine.poll(1);
            if self.scene.engine.is_idle() && self.streams.iter().all(Vec::is_empty) {
                return self.scene.assert_clean();
            }
        }
        panic!("it does not come to an end: {:?}", self.streams);
    }
}

#[test]
fn whatever_is_done_nothing_is_left_of_it() {
    for seed in 0..SEEDS {
        let outcome = std::panic::catch_unwind(|| {
            let mut play = Play::new(seed);
            (0..STEPS).for_each(|_| play.step());
            play.end();
        });
        assert!(outcome.is_ok(), "with seed {seed}");
    }
}
