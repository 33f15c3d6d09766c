//! The instance's life: constructed on the first handler thread, reconfigured and asked for its health on a thread
//! each, destroyed when no other thread runs its code.

use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use decurion_abi::{Bytes, Context};
use decurion_ipc::control::{ReplicaReport, ReplicaStart, StartFailure};

use super::{Notice, Notify};
use crate::engine::{ClassShape, Engine};
use crate::gate::Entry;
use crate::sys::host;
use crate::sys::library::{self, Instance};
use crate::sys::runner::Runner;

/// Orders of one kind that wait for the one before, at most.
const TASKS_MAX: usize = 16;

/// See the module.
pub(super) struct Life {
    runner: &'static Runner,
    notify: Notify,
    instance: Arc<OnceLock<Instance>>,
    handlers: Arc<Mutex<Vec<JoinHandle<()>>>>,
    reconfigure: Option<Worker>,
    /// Of its own: health is looked at while a `reconfigure` waits for requests to finish.
    health: Option<Worker>,
    ended: bool,
    /// The `user_config` that the instance has taken last.
    config: Config,
}

type Config = Arc<Mutex<Option<String>>>;

/// What runs beside requests.
enum Task {
    Reconfigure { sequence: u64, user_config: String },
    CheckHealth { sequence: u64 },
}

/// A thread for tasks.
struct Worker {
    tasks: SyncSender<Task>,
    thread: JoinHandle<()>,
}

impl Life {
    pub(super) fn new(runner: &'static Runner, notify: Notify) -> Self {
        let (instance, handlers) = (Arc::default(), Arc::default());
        let config = Config::default();
        Self { runner, notify, instance, handlers, reconfigure: None, health: None, ended: false, config }
    }

    /// Loads and constructs on the first handler thread, which then serves.
    pub(super) fn start(&self, start: ReplicaStart) -> io::Result<()> {
        let (runner, notify) = (self.runner, self.notify.clone());
        let (instance, handlers) = (Arc::clone(&self.instance), Arc::clone(&self.handlers));
        let config = Arc::clone(&self.config);
        let first = spawn_handler(0, move || {
            let outcome = construct(runner, &start, &instance);
            let started = outcome.is_ok();
            if started {
                locked(&config).clone_from(&start.user_config);
                for number in 1..start.threads {
                    let instance = Arc::clone(&instance);
                    match spawn_handler(number, move || serve(runner, &instance)) {
                        Ok(handler) => locked(&handlers).push(handler),
                        Err(error) => {
                            eprintln!("only {number} of {} handler threads start: {error}", start.threads);
                            break;
                        }
                    }
                }
            }
            notify.send(Notice::Started(outcome));
            if started {
                serve(runner, &instance);
            }
        })?;
        locked(&self.handlers).insert(0, first);
        Ok(())
    }

    /// Hands a configuration over; answered with `Reconfigured`, whatever comes of it.
    pub(super) fn reconfigure(&mut self, sequence: u64, user_config: String) {
        let task = Task::Reconfigure { sequence, user_config };
        // From the order on, not from when its thread gets to run: what comes later sees the new configuration.
        self.runner.with(Engine::hold_gate);
        if let Err(refusal) = self.run(task) {
            self.runner.with(Engine::release_gate);
            let result = Err(refusal.to_owned());
            self.runner.outbox.send(ReplicaReport::Reconfigured { sequence, result });
        }
    }

    /// The `user_config` that the instance has.
    pub(super) fn user_config(&self) -> Option<String> {
        locked(&self.config).clone()
    }

    /// Asks for the instance's health. A check that finds no thread, or too many before it, is not answered.
    pub(super) fn check_health(&mut self, sequence: u64) {
        let _ = self.run(Task::CheckHealth { sequence });
    }

    fn run(&mut self, task: Task) -> Result<(), &'static str> {
        if self.ended || self.instance.get().is_none() {
            return Err("there is no instance to configure");
        }
        let (place, name) = match task {
            Task::Reconfigure { .. } => (&mut self.reconfigure, "reconfigure"),
            Task::CheckHealth { .. } => (&mut self.health, "health"),
        };
        if place.is_none() {
            *place = spawn_worker(self.runner, &self.instance, &self.config, name).ok();
        }
        let Some(worker) = place else { return Err("no thread can be started") };
        worker.tasks.try_send(task).map_err(|error| match error {
            TrySendError::Full(_) => "too many configurations wait for their turn",
            TrySendError::Disconnected(_) => "its thread is gone",
        })
    }

    /// Waits for every thread that runs the library's code, then destroys the instance: on a thread of its own,
    /// which may take its time. Handler threads were told to stop.
    pub(super) fn end(&mut self, notify: Notify) {
        self.ended = true;
        let (instance, handlers) = (Arc::clone(&self.instance), Arc::clone(&self.handlers));
        let workers: Vec<JoinHandle<()>> = [self.reconfigure.take(), self.health.take()]
            .into_iter()
            .flatten()
            .map(|Worker { tasks, thread }| {
                drop(tasks);
                thread
            })
            .collect();
        let work = move || {
            let mut all_ended = true;
            // The first one starts the others: it goes first.
            while let Some(handler) = next_of(&handlers) {
                all_ended &= handler.join().is_ok();
            }
            for worker in workers {
                all_ended &= worker.join().is_ok();
            }
            if let Some(instance) = instance.get().filter(|_| all_ended) {
                instance.destroy();
            }
            notify.send(Notice::Destroyed);
        };
        if let Err(error) = std::thread::Builder::new().name("end".to_owned()).spawn(work) {
            eprintln!("can't start a thread to end with: {error}");
            self.notify.send(Notice::Destroyed);
        }
    }
}

fn locked<T>(held: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

fn next_of(handlers: &Mutex<Vec<JoinHandle<()>>>) -> Option<JoinHandle<()>> {
    let mut handlers = locked(handlers);
    if handlers.is_empty() { None } else { Some(handlers.remove(0)) }
}

fn spawn_handler(number: u16, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(format!("handler-{number}")).spawn(work)
}

fn serve(runner: &'static Runner, instance: &OnceLock<Instance>) {
    if let Some(instance) = instance.get() {
        runner.serve(instance);
    }
}

fn spawn_worker(
    runner: &'static Runner,
    instance: &Arc<OnceLock<Instance>>,
    config: &Config,
    name: &str,
) -> io::Result<Worker> {
    let (sender, tasks): (SyncSender<Task>, Receiver<Task>) = sync_channel(TASKS_MAX);
    let (instance, config) = (Arc::clone(instance), Arc::clone(config));
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        for task in tasks {
            if let Some(instance) = instance.get() {
                run_task(runner, instance, &config, task);
            }
        }
    })?;
    Ok(Worker { tasks: sender, thread })
}

fn run_task(runner: &Runner, instance: &Instance, config: &Config, task: Task) {
    match task {
        Task::Reconfigure { sequence, user_config } => {
            // Requests in flight finish with the old configuration, and none runs during an exclusive one.
            let entry = instance.class().reconfigure_entry().unwrap_or(Entry::Shared);
            let result = inside(runner, entry, || instance.reconfigure(&user_config));
            if result.is_ok() {
                *locked(config) = Some(user_config);
            }
            runner.outbox.send(ReplicaReport::Reconfigured { sequence, result });
        }
        Task::CheckHealth { sequence } => {
            // Waits for an exclusive entry to return: one that never does is no sign of health.
            runner.with(Engine::hold_gate);
            let result = inside(runner, Entry::Shared, || instance.check_health());
            runner.outbox.send(ReplicaReport::Health { sequence, result });
        }
    }
}

/// Runs an entry of the life cycle inside the gate, which is held for it, before requests that wait.
fn inside<T>(runner: &Runner, entry: Entry, run: impl FnOnce() -> T) -> T {
    runner.wait(0, |engine, _| engine.enter_gate(entry).then(|| engine.release_gate()));
    let result = run();
    runner.with(|engine| engine.gate_left(entry));
    result
}

/// Loads the library, runs the constructor and the first `reconfigure`, and opens for requests.
fn construct(
    runner: &'static Runner,
    start: &ReplicaStart,
    instance: &OnceLock<Instance>,
) -> Result<(), StartFailure> {
    let class = library::load(Path::new(&start.library), start.class.as_str())?;
    let host = host::table(runner, context(start));
    let made = Instance::create(class, host, &start.args).map_err(StartFailure::Constructor)?;
    if let Some(config) = &start.user_config {
        made.reconfigure(config).map_err(StartFailure::UserConfig)?;
    }
    let methods = class.methods().into_iter().map(|(name, flags)| (name, Entry::from_flags(flags))).collect();
    let shape = ClassShape { call: class.call_entry(), methods };
    let _ = instance.set(made);
    runner.with(|engine| engine.open(shape));
    Ok(())
}

/// The context lives as long as the process: the library may hold on to it.
fn context(start: &ReplicaStart) -> &'static Context {
    let keep = |text: &str| Bytes::from_slice(Box::leak(text.to_owned().into_boxed_str()).as_bytes());
    Box::leak(Box::new(Context {
        size: u32::try_from(size_of::<Context>()).unwrap_or(u32::MAX),
        rank: start.rank,
        world_size: start.world_size,
        threads: u32::from(start.threads),
        deployment: keep(start.deployment.as_str()),
        replica: keep(start.replica.as_str()),
        version: keep(&start.version),
        application: keep(start.application.as_str()),
    }))
}
