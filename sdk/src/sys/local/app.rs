//! Deployments in this process, by name.

use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::thread;

use decurion_abi as abi;
use decurion_abi::{encoding, flags, kind, status};

use super::alive::{self, Face, Running};
use super::exchange::{Exchange, Incoming};
use super::table;
use crate::sys::host::adopt_host;

/// A set of deployments that find each other by name.
pub(crate) struct App {
    face: Arc<Face>,
    instances: Mutex<HashMap<String, Arc<Instance>>>,
}

impl App {
    pub(crate) fn new() -> Arc<Self> {
        // SAFETY: our own table, good for the life of the process.
        unsafe { adopt_host(table::host()) }.expect("our own table is of our own version");
        alive::list(|face| Self { face, instances: Mutex::default() })
    }

    pub(super) fn face(&self) -> &Arc<Face> {
        &self.face
    }

    /// Constructs an instance of a class. The error is its message.
    pub(crate) fn deploy(self: &Arc<Self>, name: &str, table: abi::Class, args: &[u8]) -> Result<(), String> {
        let create = table.create.ok_or("the class has no constructor")?;
        let (mut raw, mut error) = (ptr::null_mut(), ErrorSlot::default());
        let _running = Running::enter(self);
        // SAFETY: our own table lives as long as the process; arguments, instance and slot live through the call.
        let done = unsafe {
            create(table::host(), abi::Bytes::from_slice(args), &raw mut raw, (&raw mut error).cast())
        };
        if done != status::OK {
            return Err(error.text);
        }
        let instance = Instance { table, raw, gate: RwLock::new(()) };
        let before = lock(&self.instances).insert(name.to_owned(), Arc::new(instance));
        // Its destructor may call: not under the lock.
        drop(before);
        self.face.has(name);
        Ok(())
    }

    /// What was measured.
    pub(crate) fn metrics(&self) -> BTreeMap<String, f64> {
        self.face.metrics()
    }

    /// A name by which any thread finds a deployment of this set.
    pub(crate) fn global_name(&self, name: &str) -> String {
        self.face.global_name(name)
    }

    pub(crate) fn reconfigure(self: &Arc<Self>, name: &str, config: &[u8]) -> Result<(), String> {
        let instance = self.instance(name).ok_or("there is no such deployment")?;
        let reconfigure = instance.table.reconfigure.ok_or("the class takes no user_config")?;
        let exclusive = instance.table.reconfigure_flags & flags::EXCLUSIVE != 0;
        self.ask(&instance, exclusive, |slot| {
            // SAFETY: an instance of this class that is alive; the configuration lives through the call.
            unsafe { reconfigure(instance.raw, abi::Bytes::from_slice(config), slot) }
        })
    }

    pub(crate) fn check_health(self: &Arc<Self>, name: &str) -> Result<(), String> {
        let instance = self.instance(name).ok_or("there is no such deployment")?;
        let Some(check_health) = instance.table.check_health else { return Ok(()) };
        // SAFETY: an instance of this class that is alive.
        self.ask(&instance, false, |slot| unsafe { check_health(instance.raw, slot) })
    }

    fn ask(
        self: &Arc<Self>,
        instance: &Instance,
        exclusive: bool,
        entry: impl FnOnce(*mut abi::ErrorSlot) -> i32,
    ) -> Result<(), String> {
        let mut error = ErrorSlot::default();
        let _running = Running::enter(self);
        let done = instance.run(exclusive, || entry((&raw mut error).cast()));
        if done == status::OK { Ok(()) } else { Err(error.text) }
    }

    /// Starts what came in on a thread of its own. The error is an ABI status.
    pub(super) fn start(
        self: &Arc<Self>,
        name: &str,
        parent: Option<Arc<Exchange>>,
        mut incoming: Incoming,
    ) -> Result<Arc<Exchange>, i32> {
        let instance = self.instance(name).ok_or(status::NOT_FOUND)?;
        let http = incoming.kind == kind::HTTP;
        let method = if http { None } else { instance.method(&incoming.method) };
        let (entry, entry_flags) = match method {
            Some((index, flags)) => {
                incoming.method_index = index;
                (instance.table.invoke, flags)
            }
            None if http => (instance.table.call, instance.table.call_flags),
            None => (None, 0),
        };
        let Some(entry) = entry else {
            let refusal = instance.refusal(http, &incoming.method);
            let exchange = Exchange::new(self, parent, incoming);
            exchange.fail(404, refusal.as_bytes());
            return Ok(exchange);
        };
        let exchange = Exchange::new(self, parent, incoming);
        let (app, running) = (Arc::clone(self), Arc::clone(&exchange));
        let serve = move || {
            let _running = Running::enter(&app);
            let done = instance.run(entry_flags & flags::EXCLUSIVE != 0, || {
                // SAFETY: an instance of this class and an open exchange, both kept alive by this thread.
                let done = unsafe { entry(instance.raw, running.raw()) };
                if done == status::OK && entry_flags & flags::ASYNC != 0 {
                    // It answers later, and is inside the gate until then.
                    running.wait_for_end();
                }
                done
            });
            if done != status::OK || !running.has_ended() {
                running.fail(0, b"the entry did not answer");
            }
        };
        thread::Builder::new().name(format!("local {name}")).spawn(serve).map_err(|_| status::ERROR)?;
        Ok(exchange)
    }

    /// The encodings that a deployment takes, as bits.
    pub(super) fn encodings_of(&self, name: &str) -> Option<u32> {
        let instance = self.instance(name)?;
        // SAFETY: the metadata is static data.
        let metadata = unsafe { instance.table.metadata.as_slice() };
        let metadata: serde_json::Value = serde_json::from_slice(metadata).ok()?;
        let takes =
            |word: &str| metadata["encodings"].as_array().is_some_and(|words| words.contains(&word.into()));
        let bit = |word, encoding: u32| u32::from(takes(word)) << encoding;
        Some(bit("json", encoding::JSON) | bit("bincode", encoding::BINCODE))
    }

    fn instance(&self, name: &str) -> Option<Arc<Instance>> {
        lock(&self.instances).get(name).cloned()
    }
}

/// Where an entry puts its message.
#[derive(Default)]
pub(super) struct ErrorSlot {
    pub(super) text: String,
}

/// One constructed class.
struct Instance {
    table: abi::Class,
    raw: *mut c_void,
    /// Keeps the ABI's word: an exclusive entry runs alone.
    gate: RwLock<()>,
}

// SAFETY: the ABI lets every thread run entries of an instance, as the gate orders them.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Instance {
    fn run<R>(&self, exclusive: bool, entry: impl FnOnce() -> R) -> R {
        if exclusive {
            let _alone = self.gate.write().unwrap_or_else(|broken| broken.into_inner());
            entry()
        } else {
            let _beside_others = self.gate.read().unwrap_or_else(|broken| broken.into_inner());
            entry()
        }
    }

    /// Index and flags of a method.
    fn method(&self, name: &[u8]) -> Option<(u32, u32)> {
        let (index, (_, flags)) = self.methods().enumerate().find(|(_, (known, _))| *known == name)?;
        Some((u32::try_from(index).ok()?, flags))
    }

    /// Names and flags.
    fn methods(&self) -> impl Iterator<Item = (&'static [u8], u32)> {
        let methods: &[abi::Method] = if self.table.methods.is_null() {
            &[]
        } else {
            // SAFETY: the table lists so many methods, as static data.
            unsafe { std::slice::from_raw_parts(self.table.methods, self.table.method_count) }
        };
        // SAFETY: the names are static data.
        methods.iter().map(|method| (unsafe { method.name.as_slice() }, method.flags))
    }

    /// Why there is no entry for what is asked, in a replica's words.
    fn refusal(&self, http: bool, method: &[u8]) -> String {
        if http {
            return "this deployment has no HTTP side; it is reached by handle only".to_owned();
        }
        let names: Vec<_> = self.methods().map(|(name, _)| String::from_utf8_lossy(name)).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("there is no method '{}'; available methods: {names}", String::from_utf8_lossy(method))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(destroy) = self.table.destroy {
            // SAFETY: made by this class's `create`; whoever runs an entry holds a share of self, so nobody does.
            unsafe { destroy(self.raw) };
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}
