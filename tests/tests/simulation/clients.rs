//! What clients do in the world: they connect, ask, read, and go; and each answer goes to the shadow model.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use decurion_api::DeploymentName;
use decurion_proxy::engine::Ready;

use crate::client::{self, Client, Parsed, Style};
use crate::shadow::{Answer, Asked, Cut, RequestId, checksum};
use crate::wire::Wire;
use crate::world::{Event, World};

/// Requests that a client sends at once, at most.
const PIPELINED_MAX: u64 = 4;
/// So long after time has leapt, or its stopped proxy goes on, what is found late is found.
const STIRRED: Duration = Duration::from_millis(100);

impl World {
    /// A client's next step comes after a while at most.
    pub(crate) fn plan_client(&mut self, client: usize, most: Duration) {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        let after = self.dice.micros(1, micros);
        let at = self.now.after(after);
        self.clients[client].act_at = Some(at);
        self.push(after, Event::Client(client));
    }

    pub(crate) fn client_acts(&mut self, at: usize) {
        self.clients[at].act_at = None;
        if self.clients[at].wire.is_none() {
            if !self.quiet {
                self.connect(at);
            }
        } else if !self.clients[at].unsent.is_empty() {
            self.send_piece(at);
        } else if self.clients[at].outstanding.is_empty() && !self.quiet {
            self.ask(at);
        }
        self.read_more(at);
        let client = &self.clients[at];
        let soon = match (&client.wire, client.unsent.is_empty(), client.style.gulp) {
            (None, ..) => return,
            (Some(_), false, _) => Duration::from_millis(3),
            (Some(_), true, Some(_)) if !client.outstanding.is_empty() => Duration::from_millis(3),
            _ => return,
        };
        self.plan_client(at, soon);
    }

    fn connect(&mut self, at: usize) {
        let style = Style::any(&mut self.dice);
        let wire = Wire {
            client: at,
            touched: Rc::clone(&self.touched),
            to_proxy: VecDeque::new(),
            from_proxy: VecDeque::new(),
            room: style.gulp.unwrap_or(usize::MAX),
            closed: false,
            ended: false,
            dropped: false,
        };
        let wire = Rc::new(RefCell::new(wire));
        self.hall.push_back(Rc::clone(&wire));
        let connection = self.clients[at].connection + 1;
        self.clients[at] =
            Client { style, wire: Some(wire), connection, idle_since: self.now, ..Client::default() };
        self.ask(at);
        self.knock();
    }

    /// Makes the next request, or a few.
    fn ask(&mut self, at: usize) {
        let client = &self.clients[at];
        let left = client.style.requests.saturating_sub(client.made);
        if left == 0 || client.announced {
            return self.hang_up_client(at);
        }
        let pipelines = client.style.pipelines;
        let count = if pipelines { 1 + self.dice.below(PIPELINED_MAX.min(left)) } else { 1 };
        for _ in 0..count {
            self.ask_once(at);
        }
        let client = &mut self.clients[at];
        if client.style.leaves && self.dice.one_in(6) {
            let connection = client.connection;
            let after = self.dice.skewed(500, 30_000);
            self.push(after, Event::Leave { client: at, connection });
        }
        self.send_piece(at);
    }

    fn ask_once(&mut self, at: usize) {
        self.requests += 1;
        let id = RequestId(self.requests);
        let names = crate::fate::names();
        let deployment: DeploymentName = names[self.dice.index(names.len())].clone();
        let method = ["GET", "GET", "POST", "POST", "PUT"][self.dice.index(5)];
        let size = match self.dice.below(12) {
            0 => 20_000 + self.dice.index(80_000),
            1 => self.dice.index(16_000),
            _ => self.dice.index(300),
        };
        let body: Vec<u8> = match method {
            "GET" => Vec::new(),
            _ => (0..size).map(|place| u8::try_from((place + at) % 251).unwrap_or(0)).collect(),
        };
        let client = &mut self.clients[at];
        client.made += 1;
        let close = client.style.closes && client.made == client.style.requests;
        let path = format!("/{deployment}/{}", id.0);
        let chunked = method != "GET" && self.dice.one_in(2);
        let bytes = client::request(&path, method, &body, (close, chunked), &mut self.dice);
        // Chunks are sent on as they come; few small ones come as one.
        let at_hand =
            if chunked { body.len() <= 300 && client.style.piece.is_none() } else { body.len() <= 16_000 };
        let body = (body.len(), checksum(&body));
        client.unsent.extend(bytes);
        client.outstanding.push_back(id);
        let (length, style) = (body.0, format!("{:?}", client.style));
        self.note(|| {
            format!("client {at} asks: {id} {method} {path}, {length} bytes, chunked: {chunked}, {style}")
        });
        self.shadow.asked(id, Asked { deployment, method, body, at_hand, at: self.now });
    }

    fn send_piece(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let Some(wire) = &client.wire else { return };
        let piece = client.style.piece.unwrap_or(usize::MAX).min(client.unsent.len());
        wire.borrow_mut().to_proxy.extend(client.unsent.drain(..piece));
        let (home, rest) = (client.home, !client.unsent.is_empty());
        if let Some(home) = home {
            self.notify(home, Ready { readable: true, ..Ready::default() });
        }
        if rest || self.clients[at].style.gulp.is_some() {
            self.plan_client(at, Duration::from_millis(3));
        }
    }

    fn read_more(&mut self, at: usize) {
        let client = &self.clients[at];
        let (Some(wire), Some(gulp)) = (&client.wire, client.style.gulp) else { return };
        let full = {
            let mut wire = wire.borrow_mut();
            let full = wire.room < gulp;
            wire.room = wire.room.max(gulp);
            full
        };
        if let Some(home) = client.home.filter(|_| full) {
            self.notify(home, Ready { writable: true, ..Ready::default() });
        }
    }

    /// A client has all that it wanted, and closes.
    fn hang_up_client(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let (wire, home) = (client.wire.take(), client.home.take());
        client.connection += 1;
        if let Some(wire) = wire {
            wire.borrow_mut().closed = true;
        }
        if let Some(home) = home {
            self.notify(home, Ready { readable: true, half_closed: true, ..Ready::default() });
        }
        if !self.quiet {
            self.plan_client(at, Duration::from_millis(20));
        }
    }

    /// A client goes, whatever it waits for.
    pub(crate) fn client_leaves(&mut self, at: usize, _: u64) {
        self.note(|| format!("client {at} leaves"));
        let broken = self.dice.one_in(2);
        let client = &mut self.clients[at];
        for id in std::mem::take(&mut client.outstanding) {
            self.ghosts.push((self.now, id));
            self.shadow.cut(id, Cut::ByClient, self.now);
        }
        self.left_at = self.now;
        if let (true, Some(home)) = (broken, client.home) {
            let wire = client.wire.take();
            client.home = None;
            if let Some(wire) = wire {
                wire.borrow_mut().closed = true;
            }
            self.notify(home, Ready { broken: true, ..Ready::default() });
        }
        self.hang_up_client(at);
    }

    /// Clients look at what has come.
    pub(crate) fn listen_to_clients(&mut self) {
        let touched = std::mem::take(&mut *self.touched.borrow_mut());
        if touched.is_empty() {
            return;
        }
        let waiting = crate::fate::names().map(|name| {
            let outstanding = self.clients.iter().flat_map(|client| &client.outstanding);
            let of_it = outstanding.filter(|id| self.shadow.is_of(**id, &name)).count();
            (name, of_it)
        });
        for at in touched {
            self.attend(at, &waiting);
        }
    }

    fn attend(&mut self, at: usize, waiting: &[(DeploymentName, usize)]) {
        let Some(wire) = self.clients[at].wire.clone() else { return };
        let client = &mut self.clients[at];
        client.buffer.extend(wire.borrow_mut().from_proxy.drain(..));
        while !self.clients[at].buffer.is_empty() {
            let Some(parsed) = client::parse(&self.clients[at].buffer) else { break };
            self.take_answer(at, parsed, waiting);
        }
        if wire.borrow().ended {
            return self.connection_ended(at);
        }
        let client = &self.clients[at];
        if client.outstanding.is_empty() && client.unsent.is_empty() && client.act_at.is_none() {
            // Once luck has turned there is much time, and little to see.
            let think = Duration::from_micros(client.style.think_us) * if self.calm { 20 } else { 1 };
            self.plan_client(at, think);
        }
    }

    fn take_answer(&mut self, at: usize, parsed: Parsed, waiting: &[(DeploymentName, usize)]) {
        let slow =
            self.clients[at].style.gulp.is_some() || self.now.until(self.left_at) < Duration::from_secs(2);
        let client = &mut self.clients[at];
        client.buffer.drain(..parsed.used);
        client.announced |= parsed.close;
        client.idle_since = self.now;
        let Some(id) = client.outstanding.pop_front() else {
            assert!(parsed.status == 408, "client {at} is answered {} without having asked", parsed.status);
            return;
        };
        let status = parsed.status;
        let text: String = String::from_utf8_lossy(&parsed.body).chars().take(60).collect();
        self.note(|| format!("client {at}: {id} is answered {status}, {text}"));
        let answer = Answer { status, body: parsed.body, at: self.now };
        let waits =
            waiting.iter().find(|(name, _)| self.shadow.is_of(id, name)).map_or(0, |(_, count)| *count);
        self.shadow.answered(id, &answer, if slow { usize::MAX } else { waits }, self.now);
    }

    fn connection_ended(&mut self, at: usize) {
        let idle = self.desired.http.keep_alive_timeout;
        // What came while its proxy was stopped, that proxy has not read when it finds the connection idle for too long.
        let home = self.clients[at].home.and_then(|home| self.proxies.get(&home.proxy));
        let stirred = home.map_or(self.books.leapt, |proxy| proxy.hung_until.max(self.books.leapt));
        let client = &mut self.clients[at];
        let begun = !client.buffer.is_empty();
        let slow = client.style.gulp.is_some() || client.style.piece.is_some();
        let asked = client.outstanding.front().and_then(|id| self.shadow.asked_at(*id)).unwrap_or(self.now);
        let cut = match client.fate {
            Some(fate) => fate,
            None if client.announced => Cut::Announced,
            None if (slow || !begun) && self.now.until(stirred) < STIRRED => Cut::Stalled,
            None if !begun && asked.until(client.idle_since) + STIRRED >= idle => Cut::Idle,
            None if !begun && client.outstanding.is_empty() => Cut::Idle,
            None => Cut::Unannounced { begun },
        };
        let mut outstanding = std::mem::take(&mut client.outstanding).into_iter();
        let (first, rest) = (outstanding.next(), outstanding);
        self.note(|| format!("client {at}: the connection ended under {first:?}: {cut:?}"));
        if let Some(first) = first {
            self.shadow.cut(first, cut, self.now);
        }
        // Nobody begins with the next before the one before is answered.
        let unbegun = matches!(cut, Cut::Unannounced { .. });
        for id in rest {
            self.shadow.cut(id, if unbegun { Cut::Announced } else { cut }, self.now);
        }
        let client = &mut self.clients[at];
        (client.wire, client.home) = (None, None);
        client.unsent.clear();
        client.connection += 1;
        if !self.quiet {
            self.plan_client(at, Duration::from_millis(10));
        }
    }

    /// Whether some client still waits, or has not sent all.
    pub(crate) fn clients_wait(&self) -> bool {
        self.clients.iter().any(|client| !client.outstanding.is_empty() || !client.unsent.is_empty())
    }
}
