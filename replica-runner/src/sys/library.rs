//! Loads one library and finds one class in it. What the file says is checked before any of its code runs.

use std::ffi::c_void;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use decurion_abi::{ABI_MAJOR, Bytes, CLASS_SYMBOL_PREFIX, Class, Host, MAGIC};
use decurion_ipc::control::StartFailure;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::engine::Job;
use crate::gate::Entry;
use crate::sys::runner::{Handler, Returned};

/// Bytes of the tables that this host knows; a library of 1.0 has at least these.
const CLASS_SIZE_MIN: usize = size_of::<Class>();

/// A class that was found, checked and will never be unloaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LoadedClass {
    table: &'static Class,
}

/// Loads `path` and checks the table of `class`.
///
/// # Errors
/// [`StartFailure::Library`] or [`StartFailure::Class`], with a sentence for the operator.
pub(crate) fn load(path: &Path, class: &str) -> Result<LoadedClass, StartFailure> {
    let bytes = std::fs::read(path)
        .map_err(|error| StartFailure::Library(format!("can't read {}: {error}", path.display())))?;
    let facts = decurion_library::inspect(&bytes)
        .map_err(|error| StartFailure::Library(format!("{}: {error}", path.display())))?;
    drop(bytes);
    if !facts.classes.iter().any(|known| known.name == class) {
        let names: Vec<&str> = facts.classes.iter().map(|known| known.name.as_str()).collect();
        return Err(StartFailure::Class(format!(
            "{} holds no class '{class}'; it holds: {}",
            path.display(),
            names.join(", ")
        )));
    }
    // SAFETY: running a library's initialisers is what a replica is for; this process holds nothing else.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| StartFailure::Library(format!("can't load {}: {error}", path.display())))?;
    let name = format!("{CLASS_SYMBOL_PREFIX}{class}");
    // SAFETY: the symbol is only read as an address here; what stands there is checked below.
    let table: *mut c_void = unsafe { library.get::<*mut c_void>(name.as_bytes()) }
        .map_err(|error| StartFailure::Class(format!("no symbol {name}: {error}")))?
        .into_raw()
        .cast();
    // Threads, thread-local destructors and static data of a library outlive any unloading: it stays.
    std::mem::forget(library);
    check_table(table.cast::<Class>(), class)
}

fn check_table(table: *const Class, class: &str) -> Result<LoadedClass, StartFailure> {
    let refuse = |what: String| Err(StartFailure::Class(format!("the table of class '{class}' {what}")));
    let Some(table) = NonNull::new(table.cast_mut()) else {
        return refuse("is null".to_owned());
    };
    if !table.is_aligned() {
        return refuse(format!("is not aligned ({table:p})"));
    }
    // SAFETY: the dynamic linker resolved the symbol to static data of the library, which `inspect` saw to be a data symbol large
    // enough for a table; it is aligned, never unloaded, and nobody writes static tables.
    let table: &'static Class = unsafe { table.as_ref() };
    if table.magic != MAGIC {
        return refuse(format!("begins with {:#x} instead of the magic word", table.magic));
    }
    if table.abi_major != ABI_MAJOR {
        return refuse(format!(
            "is of ABI {}.{}, and this host speaks {ABI_MAJOR}",
            table.abi_major, table.abi_minor
        ));
    }
    if (table.size as usize) < CLASS_SIZE_MIN {
        return refuse(format!("has {} bytes, and ABI 1.0 has {CLASS_SIZE_MIN}", table.size));
    }
    if table.create.is_none() {
        return refuse("has no constructor".to_owned());
    }
    Ok(LoadedClass { table })
}

impl LoadedClass {
    /// How `call` takes the instance; `None` where the class has no HTTP side.
    pub(crate) fn call_entry(&self) -> Option<Entry> {
        self.table.call.map(|_| Entry::from_flags(self.table.call_flags))
    }

    /// How `reconfigure` takes the instance; `None` where the class has none.
    pub(crate) fn reconfigure_entry(&self) -> Option<Entry> {
        self.table.reconfigure.map(|_| Entry::from_flags(self.table.reconfigure_flags))
    }

    /// Flags of one method; none for one that does not exist.
    pub(crate) fn method_flags(&self, index: u32) -> u32 {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if self.table.methods.is_null() || index >= self.table.method_count {
            return 0;
        }
        // SAFETY: the table promises `method_count` entries at `methods`, and the index is below it.
        let method = unsafe { self.table.methods.add(index) };
        // SAFETY: as above: an entry of the table, static data.
        unsafe { (*method).flags }
    }

    /// Names and flags of the methods, in the order of their index.
    pub(crate) fn methods(&self) -> Vec<(String, u32)> {
        if self.table.methods.is_null() {
            return Vec::new();
        }
        // SAFETY: the table promises `method_count` entries of static data at `methods`.
        let methods = unsafe { std::slice::from_raw_parts(self.table.methods, self.table.method_count) };
        methods
            .iter()
            .map(|method| {
                // SAFETY: the table promises that names are static data.
                let name = unsafe { method.name.as_slice() };
                (String::from_utf8_lossy(name).into_owned(), method.flags)
            })
            .collect()
    }
}

/// A constructed instance. Calls into the library go through here.
#[derive(Debug)]
pub(crate) struct Instance {
    class: LoadedClass,
    this: *mut c_void,
    destroyed: AtomicBool,
}

// SAFETY: the ABI lets the host call entries from any thread, as far as the gate lets them in.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

/// What a failing entry left behind.
#[derive(Debug, Default)]
pub(crate) struct ErrorText {
    /// Message.
    pub(crate) message: String,
}

impl ErrorText {
    fn or(self, what: &str, status: i32) -> String {
        if self.message.is_empty() { format!("{what} returned {status}") } else { self.message }
    }

    fn slot(&mut self) -> *mut decurion_abi::ErrorSlot {
        std::ptr::from_mut(self).cast()
    }
}

impl Instance {
    /// Runs the constructor.
    pub(crate) fn create(class: LoadedClass, host: &'static Host, args: &str) -> Result<Self, String> {
        let create = class.table.create.ok_or("the class has no constructor")?;
        let mut this = std::ptr::null_mut();
        let mut error = ErrorText::default();
        // SAFETY: the table was checked; host, args, out pointer and slot live through the call.
        let status = unsafe { create(host, Bytes::from_slice(args.as_bytes()), &raw mut this, error.slot()) };
        if status == decurion_abi::status::OK {
            Ok(Self { class, this, destroyed: AtomicBool::new(false) })
        } else {
            Err(error.or("the constructor", status))
        }
    }

    /// The class.
    pub(crate) fn class(&self) -> LoadedClass {
        self.class
    }

    /// Runs `call` or `invoke` for an exchange; the entry's status.
    fn answer(&self, call: bool, exchange: *mut decurion_abi::Exchange) -> i32 {
        let entry = if call { self.class.table.call } else { self.class.table.invoke };
        match entry {
            // SAFETY: the instance is alive (destroy comes last), the gate let this entry in, the exchange is open.
            Some(entry) => unsafe { entry(self.this, exchange) },
            None => decurion_abi::status::NOT_FOUND,
        }
    }

    /// Hands over a new configuration.
    pub(crate) fn reconfigure(&self, config: &str) -> Result<(), String> {
        let Some(entry) = self.class.table.reconfigure else {
            return Err("the class has no reconfigure, so it takes no user_config".to_owned());
        };
        let mut error = ErrorText::default();
        // SAFETY: as in `answer`; config and slot live through the call.
        let status = unsafe { entry(self.this, Bytes::from_slice(config.as_bytes()), error.slot()) };
        if status == decurion_abi::status::OK { Ok(()) } else { Err(error.or("reconfigure", status)) }
    }

    /// Asks for its health; healthy where the class does not say.
    pub(crate) fn check_health(&self) -> Result<(), String> {
        let Some(entry) = self.class.table.check_health else {
            return Ok(());
        };
        let mut error = ErrorText::default();
        // SAFETY: as in `answer`; the slot lives through the call.
        let status = unsafe { entry(self.this, error.slot()) };
        if status == decurion_abi::status::OK { Ok(()) } else { Err(error.or("check_health", status)) }
    }

    /// Runs the destructor, once, when nothing of the instance runs any more.
    pub(crate) fn destroy(&self) {
        if self.destroyed.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(destroy) = self.class.table.destroy {
            // SAFETY: it was not destroyed before, and every thread that ran entries has been joined.
            unsafe { destroy(self.this) };
        }
    }
}

impl Handler for Instance {
    fn run(&self, job: Job) -> Returned {
        let entry_flags = match job.method {
            None => self.class.table.call_flags,
            Some(method) => self.class.method_flags(method),
        };
        let status = self.answer(job.method.is_none(), job.key.to_opaque());
        Returned { status, later: entry_flags & decurion_abi::flags::ASYNC != 0 }
    }
}
