//! SIGUSR2: another version of the program takes this one's place, in the same process. It is tried first, beside us:
//! one that can't start is refused, and nothing has happened.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use decurion_ipc::adoption::CONTROL_VERSION;

use crate::options::Program;
use crate::reconcile::Note;
use crate::sys::heritage::Heritage;
use crate::sys::machine::Machine;
use crate::sys::mailbox::Message;

/// What the trial may take.
const TRIAL_MAX: Duration = Duration::from_secs(20);
/// Between two looks whether it is over.
const LOOK_PERIOD: Duration = Duration::from_millis(10);
/// What a program says of itself that may take our place, before the version of its control protocol.
pub(crate) const TRIAL_WORD: &str = "decurion-control-version";
/// Asks for that.
const TRIAL_FLAG: &str = "--self-test";

impl Machine {
    /// Tries the program, on a thread of its own; what comes of it is told.
    pub(super) fn try_upgrade(&mut self) {
        let Some(program) = self.options.program.clone() else {
            return tracing::info!("SIGUSR2: there is no program that could take this one's place");
        };
        let mailbox = self.mailbox.clone();
        let run = move || {
            mailbox.post(Message::Upgrade(try_out(&program)));
        };
        if let Err(error) = std::thread::Builder::new().name("upgrade".to_owned()).spawn(run) {
            self.refuse_upgrade(&error.to_string());
        }
    }

    /// The trial is over: gives way to the program, where that was good.
    pub(super) fn upgrade(&mut self, tried: Result<(), String>) {
        let Some(program) = self.options.program.clone() else { return };
        if self.core.observed().stopping.is_some() {
            return;
        }
        if let Err(why) = tried {
            return self.refuse_upgrade(&why);
        }
        self.tell_of_upgrade(format!("{} takes this one's place", program.path.display()));
        let why = match self.heritage() {
            Ok(heritage) => heritage.hand_on(&program),
            Err(error) => error,
        };
        self.refuse_upgrade(&why.to_string());
    }

    fn heritage(&self) -> io::Result<Heritage> {
        let mut heritage = Heritage::default();
        heritage.add("lock", self.lock.as_fd())?;
        heritage.add("control", self.control.as_fd())?;
        heritage.add("handles", self.handles.as_fd())?;
        heritage.add("adopt", self.hall.as_fd())?;
        for (address, listener) in &self.listeners {
            heritage.add(format!("listen:{address}"), listener.as_fd())?;
        }
        Ok(heritage)
    }

    fn refuse_upgrade(&self, why: &str) {
        self.tell_of_upgrade(format!("the upgrade is refused, and nothing was changed: {why}"));
    }

    fn tell_of_upgrade(&self, message: String) {
        self.journal.event(Note { deployment: None, replica: None, kind: "upgrade", message });
    }
}

/// Runs the program far enough to see that it can take our place.
fn try_out(program: &Program) -> Result<(), String> {
    let path = program.path.display();
    let mut child = Command::new(&program.path)
        .args(&program.arguments)
        .arg(TRIAL_FLAG)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{path} can't be started: {error}"))?;
    let outcome = end_of(&mut child).map_err(|error| format!("{path} does not end: {error}"))?;
    let said = [read(child.stdout.take()), read(child.stderr.take())];
    if !outcome.success() {
        return Err(format!("{path} can't take this one's place: {}", said[1].trim()));
    }
    let version = said[0].lines().find_map(|line| line.strip_prefix(TRIAL_WORD)).map(str::trim);
    match version {
        Some(version) if version == CONTROL_VERSION.to_string() => Ok(()),
        Some(version) => Err(format!(
            "{path} speaks version {version} of the control protocol, and what runs speaks {CONTROL_VERSION}: stop, and \
             start it anew"
        )),
        None => Err(format!("{path} is not this program")),
    }
}

fn end_of(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let until = Instant::now() + TRIAL_MAX;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        std::thread::sleep(LOOK_PERIOD);
    }
}

/// What a child that has ended has left in a pipe: no more than that holds.
fn read(pipe: Option<impl Read>) -> String {
    const LENGTH_MAX: u64 = 64 * 1024;
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What can't be read was not said.
        let _ = pipe.take(LENGTH_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
