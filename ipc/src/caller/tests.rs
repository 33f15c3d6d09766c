//! The caller core with callees in the same process: real lanes, no other process, no clock.

use std::collections::VecDeque;

use decurion_api::{DeploymentName, ReplicaId};

use super::{
    Availability, CallError, CallKey, Caller, CallerOrder, CallerReport, HUNG_UP, NewCall, Outcome, StreamId,
};
use crate::attach::{self, UpBell};
use crate::board::{BoardWriter, model_hash};
use crate::channel::{Geometry, Request, Responder};
use crate::control::{DeploymentView, Generation};
use crate::epoch::{Epoch, SetView, Span};
use crate::record::{Kind, RequestHead, ResponseHead};

fn name(text: &str) -> DeploymentName {
    DeploymentName::new(text).expect("a name")
}

fn replica(number: u32) -> ReplicaId {
    ReplicaId::numbered(&name("model"), number)
}

fn view(replicas: &[u32], ongoing: u32, queued: Option<u32>) -> DeploymentView {
    DeploymentView {
        name: name("model"),
        route_prefix: None,
        availability: Availability::Expected,
        replicas: replicas.iter().map(|number| replica(*number)).collect(),
        max_ongoing_requests: ongoing,
        silent: Vec::new(),
        canary: None,
        max_queued_requests: queued,
        request_timeout: None,
        http: true,
        methods: Vec::new(),
        encodings: 2,
        entry: Epoch(0),
        set: None,
    }
}

fn call(text: &str) -> NewCall<'static> {
    NewCall {
        deployment: name("model"),
        kind: Kind::Call,
        method: "predict",
        target: "",
        headers: &[],
        encoding: 1,
        body: text.as_bytes().to_vec(),
        id: "id",
        traceparent: "",
        deadline_ns: 0,
        model_id: "",
        replica: None,
        epoch: None,
    }
}

/// Its id, its end of the lane, and what it was sent and has not answered.
type Callee = (ReplicaId, Responder, VecDeque<(StreamId, Vec<u8>)>);

/// A caller and the callees it is attached to.
struct Scene {
    caller: Caller,
    callees: Vec<Callee>,
    boards: Vec<BoardWriter>,
    generation: u64,
}

impl Scene {
    fn new(view: DeploymentView) -> Self {
        let mut scene =
            Self { caller: Caller::new(), callees: Vec::new(), boards: Vec::new(), generation: 0 };
        scene.caller.resolve(&name("model"));
        assert_eq!(scene.caller.take_reports(), [CallerReport::Resolve(name("model"))]);
        scene.announce(view);
        scene
    }

    fn announce(&mut self, view: DeploymentView) {
        for id in view.replicas.clone() {
            if self.callees.iter().any(|(known, ..)| *known == id) {
                continue;
            }
            let order = CallerOrder::Attach { deployment: name("model"), replica: id.clone(), requests: 5 };
            assert_eq!(self.caller.handle(order), Some(id.clone()));
            let (near, mut far, board) =
                attach::local_with_board(1, Geometry::default(), UpBell::Pipe).expect("a channel");
            self.boards.push(board);
            self.callees.push((id.clone(), far.lanes.remove(0), VecDeque::new()));
            self.caller.attached(id, Ok(near));
        }
        self.generation += 1;
        let generation = Generation(self.generation);
        let order = CallerOrder::View {
            generation,
            view: Some(Box::new(view)),
            deployment: name("model"),
            known: Vec::new(),
        };
        assert_eq!(self.caller.handle(order), None);
        let applied = CallerReport::Applied { deployment: name("model"), generation };
        let mut reports = self.caller.take_reports();
        reports.retain(|report| !matches!(report, CallerReport::Waiting { .. } | CallerReport::Oldest(_)));
        assert_eq!(reports, [applied]);
    }

    fn start(&mut self, text: &str) -> CallKey {
        self.caller.start(call(text), 0).expect("it may be sent or wait")
    }

    /// What each callee has been sent so far and has not answered.
    fn arrived(&mut self) -> Vec<Vec<String>> {
        self.caller.flush();
        let mut all = Vec::new();
        for (_, lane, queue) in &mut self.callees {
            let mut opened = Vec::new();
            lane.poll(64, &mut |request| {
                if let Request::Open { stream, head, body, .. } = request {
                    RequestHead::parse(head).expect("a head");
                    opened.push((stream, body));
                }
            })
            .expect("no fault");
            for (stream, body) in opened {
                let mut bytes = vec![0; body.as_ref().map_or(0, |block| block.len())];
                if let Some(block) = body {
                    lane.copy_to(&block, 0, &mut bytes);
                    lane.give_back(block);
                }
                queue.push_back((stream, bytes));
            }
            let texts = queue.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned());
            all.push(texts.collect());
        }
        all
    }

    /// The callee takes and answers its oldest request.
    fn answer(&mut self, callee: usize, text: &str) {
        self.arrived();
        let (_, lane, queue) = &mut self.callees[callee];
        let (stream, _) = queue.pop_front().expect("something to answer");
        assert!(lane.take(stream));
        let head = ResponseHead { status: 200, content_length: None, encoding: 1 };
        let mut record = Vec::new();
        head.encode(std::iter::empty(), &mut record);
        lane.head(stream, &record, text.as_bytes(), true).expect("room");
        lane.flush();
        self.caller.poll(0);
    }

    fn body(&mut self, key: CallKey) -> String {
        let reply = self.caller.take_reply(key).expect("a reply");
        String::from_utf8(reply.body).expect("text")
    }
}

#[test]
fn calls_go_to_the_least_loaded_replica() {
    let mut scene = Scene::new(view(&[1, 2, 3], 5, None));
    for number in 0..6 {
        scene.start(&number.to_string());
    }
    assert_eq!(scene.arrived().iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 2]);
    scene.answer(1, "done");
    scene.answer(1, "done");
    scene.start("next");
    assert_eq!(scene.arrived()[1], ["next"]);
}

#[test]
fn equally_loaded_replicas_have_their_turns() {
    let mut scene = Scene::new(view(&[1, 2], 5, None));
    let mut served = [0, 0];
    for _ in 0..10 {
        scene.start("one at a time");
        let callee = scene.arrived().iter().position(|texts| !texts.is_empty()).expect("sent somewhere");
        served[callee] += 1;
        scene.answer(callee, "done");
    }
    assert_eq!(served, [5, 5]);
}

#[test]
fn what_a_replica_has_not_counted_yet_makes_it_no_busier_than_one_that_works() {
    let mut scene = Scene::new(view(&[1, 2], 5, None));
    scene.start("first");
    let busy = scene.arrived().iter().position(|texts| !texts.is_empty()).expect("sent somewhere");
    // The other one has answered somebody, and not said so yet: its turn comes whoever would come first of equals.
    scene.boards[1 - busy].set_ongoing(1);
    let turn = scene.caller.callees[&name("model")].turn;
    for turn in [turn, turn + 1] {
        scene.caller.callees.get_mut(&name("model")).expect("known").turn = turn;
        scene.start("next");
        assert_eq!(scene.arrived()[1 - busy], ["next"], "turn {turn}");
        scene.answer(1 - busy, "done");
    }
}

#[test]
fn a_reply_comes_back_to_its_call() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let (one, two) = (scene.start("one"), scene.start("two"));
    scene.answer(0, "first");
    assert_eq!(scene.caller.outcome(one), Outcome::Ready);
    assert_eq!(scene.caller.outcome(two), Outcome::Pending);
    scene.answer(0, "second");
    assert_eq!((scene.body(two), scene.body(one)), ("second".to_owned(), "first".to_owned()));
}

#[test]
fn what_finds_no_room_waits_in_order_and_is_sent_when_a_place_frees() {
    let mut scene = Scene::new(view(&[1], 1, Some(2)));
    scene.start("a");
    scene.start("b");
    scene.start("c");
    assert_eq!(scene.caller.start(call("d"), 0), Err(CallError::Busy { waiting: 2 }));
    assert_eq!(scene.arrived(), [["a"]]);
    scene.answer(0, "done");
    assert_eq!(scene.arrived(), [["b"]]);
}

#[test]
fn what_a_dead_replica_had_not_taken_goes_elsewhere() {
    let mut scene = Scene::new(view(&[1, 2], 5, None));
    let (one, two) = (scene.start("one"), scene.start("two"));
    let arrived = scene.arrived();
    let victim = arrived.iter().position(|texts| texts.contains(&"one".to_owned())).expect("sent somewhere");
    scene.caller.died(&replica(u32::try_from(victim).expect("small") + 1));
    scene.callees.remove(victim);
    let mut left = scene.arrived().remove(0);
    left.sort();
    assert_eq!(left, ["one", "two"]);
    scene.answer(0, "x");
    scene.answer(0, "y");
    assert_eq!((scene.caller.outcome(one), scene.caller.outcome(two)), (Outcome::Ready, Outcome::Ready));
}

#[test]
fn what_a_dead_replica_had_taken_is_broken_and_what_it_had_answered_arrives() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let (answered, taken) = (scene.start("answered"), scene.start("taken"));
    scene.arrived();
    let (_, lane, queue) = &mut scene.callees[0];
    let (first, second) = (queue[0].0, queue[1].0);
    assert!(lane.take(first) && lane.take(second));
    let mut record = Vec::new();
    ResponseHead { status: 200, content_length: None, encoding: 1 }.encode(std::iter::empty(), &mut record);
    lane.head(first, &record, b"in time", true).expect("room");
    lane.flush();
    // Nobody has looked at the lane since.
    scene.caller.died(&replica(1));
    assert_eq!(scene.body(answered), "in time");
    assert_eq!(scene.caller.outcome(taken), Outcome::Failed(CallError::Broken));
}

#[test]
fn a_deadline_ends_a_call_wherever_it_is() {
    let mut scene = Scene::new(view(&[1], 1, None));
    let sent = scene.caller.start(NewCall { deadline_ns: 100, ..call("sent") }, 0).expect("room");
    let waiting = scene.caller.start(NewCall { deadline_ns: 50, ..call("waiting") }, 0).expect("room");
    assert_eq!(scene.caller.next_timer(), Some(50));
    scene.caller.poll(50);
    assert_eq!(scene.caller.outcome(waiting), Outcome::Failed(CallError::Deadline));
    assert_eq!(scene.caller.outcome(sent), Outcome::Pending);
    scene.caller.poll(100);
    assert_eq!(scene.caller.outcome(sent), Outcome::Failed(CallError::Deadline));
    assert_eq!(scene.caller.next_timer(), None);
}

#[test]
fn a_replica_that_no_view_names_gets_nothing_new_and_finishes_what_it_has() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let old = scene.start("old");
    scene.announce(view(&[2], 5, None));
    scene.start("new");
    assert_eq!(scene.arrived(), [["old"], ["new"]]);
    scene.answer(0, "finished");
    assert_eq!(scene.body(old), "finished");
}

#[test]
fn calls_before_the_first_view_wait_for_it() {
    let mut caller = Caller::new();
    let key = caller.start(call("early"), 0).expect("it waits");
    assert_eq!(caller.outcome(key), Outcome::Pending);
    let known = vec![name("other")];
    let order = CallerOrder::View { generation: Generation(1), view: None, deployment: name("model"), known };
    caller.handle(order);
    match caller.outcome(key) {
        Outcome::Failed(error @ CallError::NotFound { .. }) => {
            assert_eq!(error.to_string(), "there is no deployment 'model'; there are: other");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_failed_deployment_is_refused_with_its_reason() {
    let mut scene = Scene::new(view(&[], 5, None));
    let waiting = scene.start("waits for a replica");
    let failed = DeploymentView {
        availability: Availability::Failed("it never started".to_owned()),
        ..view(&[], 5, None)
    };
    scene.announce(failed);
    let reason = CallError::Unavailable("it never started".to_owned());
    assert_eq!(scene.caller.outcome(waiting), Outcome::Failed(reason.clone()));
    assert_eq!(scene.caller.start(call("later"), 0), Err(reason));
}

#[test]
fn arguments_and_replies_larger_than_the_channel_stream_through() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let arguments: Vec<u8> = (0..1_000_000u32).map(|number| number.to_le_bytes()[1]).collect();
    let key = scene.caller.start(NewCall { body: arguments.clone(), ..call("") }, 0).expect("room");
    let (_, lane, _) = &mut scene.callees[0];
    let (mut echoed, mut sent, mut stream, mut ended, mut taken) = (Vec::new(), 0, None, false, false);
    while scene.caller.outcome(key) == Outcome::Pending {
        scene.caller.flush();
        let mut blocks = Vec::new();
        lane.poll(64, &mut |request| match request {
            Request::Open { stream: opened, body, end, .. } => {
                stream = Some(opened);
                blocks.extend(body);
                ended |= end;
            }
            Request::Data { block, end, .. } => {
                blocks.push(block);
                ended |= end;
            }
            Request::End(_) => ended = true,
            Request::Cancel(_) | Request::Room(_) => {}
        })
        .expect("no fault");
        // What is not taken keeps its blocks, so that it can move: a long body needs its stream taken first.
        if let (Some(stream), false) = (stream, taken) {
            taken = lane.take(stream);
        }
        for block in blocks {
            let at = echoed.len();
            echoed.resize(at + block.len(), 0);
            lane.copy_to(&block, 0, &mut echoed[at..]);
            lane.give_back(block);
        }
        if let (Some(stream), true) = (stream, ended) {
            if sent == 0 {
                let mut record = Vec::new();
                let head = ResponseHead { status: 200, content_length: None, encoding: 1 };
                head.encode(std::iter::empty(), &mut record);
                lane.head(stream, &record, &[], false).expect("room");
            }
            while sent < echoed.len() {
                let Ok(mut block) = lane.block(stream, echoed.len() - sent) else { break };
                sent += lane.fill(&mut block, &echoed[sent..]);
                lane.send(stream, block, sent == echoed.len());
            }
        }
        lane.flush();
        scene.caller.poll(0);
    }
    assert!(scene.caller.take_reply(key).expect("a reply").body == arguments);
}

#[test]
fn a_call_whose_head_is_too_large_is_refused_and_holds_up_nobody() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let headers: [(&[u8], &[u8]); 1] = [(b"x-long", &[b'x'; 70_000])];
    let refused = scene.caller.start(NewCall { headers: &headers, ..call("too much") }, 0);
    assert!(matches!(refused, Err(CallError::TooLarge { .. })), "{refused:?}");
    let next = scene.start("next");
    scene.answer(0, "done");
    assert_eq!(scene.body(next), "done");
}

#[test]
fn what_a_retired_replica_gives_back_goes_to_its_successor() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let key = scene.start("early");
    assert_eq!(scene.arrived(), [["early"]]);
    scene.announce(view(&[2], 5, None));
    let (_, lane, queue) = &mut scene.callees[0];
    let (stream, _) = queue.pop_front().expect("it has come");
    lane.refuse(stream);
    lane.flush();
    scene.caller.poll(0);
    assert_eq!(scene.arrived()[1], ["early"]);
    scene.answer(1, "done");
    assert_eq!(scene.body(key), "done");
    assert!(!scene.caller.has_channel(&replica(1)), "nothing of ours is left there");
}

#[test]
fn a_replica_that_was_joined_for_a_view_to_come_is_kept_until_then() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let order = CallerOrder::Attach { deployment: name("model"), replica: replica(2), requests: 5 };
    assert_eq!(scene.caller.handle(order), Some(replica(2)));
    let (near, mut far) = attach::local(1, Geometry::default(), UpBell::Pipe).expect("a channel");
    scene.callees.push((replica(2), far.lanes.remove(0), VecDeque::new()));
    scene.caller.attached(replica(2), Ok(near));
    // An older view comes between the two.
    scene.announce(view(&[1], 6, None));
    scene.announce(view(&[2], 5, None));
    scene.start("new");
    assert_eq!(scene.arrived()[1], ["new"]);
}

#[test]
fn a_replica_that_is_joined_anew_breaks_what_went_by_the_old_channel() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let key = scene.start("taken");
    scene.arrived();
    let (_, lane, queue) = &mut scene.callees[0];
    let stream = queue[0].0;
    assert!(lane.take(stream));
    let (near, _far) = attach::local(1, Geometry::default(), UpBell::Pipe).expect("a channel");
    scene.caller.attached(replica(1), Ok(near));
    assert_eq!(scene.caller.outcome(key), Outcome::Failed(CallError::Broken));
}

#[test]
fn a_replica_that_has_hung_up_is_asked_for_anew_and_what_it_had_not_taken_waits_for_it() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let key = scene.start("patient");
    scene.caller.flush();
    let lost = CallerReport::Lost { replica: replica(1), why: HUNG_UP.to_owned() };
    scene.caller.lost(&replica(1), HUNG_UP);
    scene.caller.lost(&replica(1), HUNG_UP);
    let told = scene.caller.take_reports();
    assert_eq!(told.iter().filter(|report| **report == lost).count(), 1, "{told:?}");
    assert_eq!(scene.caller.outcome(key), Outcome::Pending);
    // The first attempt fails, the second does not.
    let order = || CallerOrder::Attach { deployment: name("model"), replica: replica(1), requests: 5 };
    assert_eq!(scene.caller.handle(order()), Some(replica(1)));
    scene.caller.attached(replica(1), Err("too many callers".to_owned()));
    let lost = CallerReport::Lost { replica: replica(1), why: "too many callers".to_owned() };
    assert!(scene.caller.take_reports().contains(&lost));
    assert_eq!(scene.caller.handle(order()), Some(replica(1)));
    let (near, mut far) = attach::local(1, Geometry::default(), UpBell::Pipe).expect("a channel");
    scene.callees[0] = (replica(1), far.lanes.remove(0), VecDeque::new());
    scene.caller.attached(replica(1), Ok(near));
    assert_eq!(scene.arrived(), [["patient"]]);
}

#[test]
fn who_is_joined_anew_already_is_not_asked_for_again_when_the_old_channel_ends() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let order = CallerOrder::Attach { deployment: name("model"), replica: replica(1), requests: 5 };
    assert_eq!(scene.caller.handle(order), Some(replica(1)));
    let key = scene.caller.joining(&replica(1));
    scene.caller.lost(&replica(1), HUNG_UP);
    assert!(!scene.caller.take_reports().iter().any(|report| matches!(report, CallerReport::Lost { .. })));
    assert!(key.is_some() && scene.caller.joining(&replica(1)) == key, "the new one is still on its way");
}

#[test]
fn only_watched_calls_are_told_of() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let (watched, other) = (scene.start("watched"), scene.start("other"));
    scene.caller.watch(watched);
    scene.answer(0, "one");
    scene.answer(0, "two");
    assert_eq!(scene.caller.take_touched(), [watched]);
    assert_eq!((scene.body(watched), scene.body(other)), ("one".to_owned(), "two".to_owned()));
    assert_eq!(scene.caller.take_touched(), []);
}

#[test]
fn calls_that_are_not_wholly_sent_are_known() {
    let mut scene = Scene::new(view(&[1], 1, None));
    assert!(!scene.caller.has_unsent());
    let large =
        scene.caller.start(NewCall { body: vec![0; 1_000_000], ..call("") }, 0).expect("it is begun with");
    assert!(scene.caller.has_unsent(), "there is no room for all of it");
    scene.caller.cancel(large);
    assert!(!scene.caller.has_unsent());
    scene.caller.free(large);
    scene.arrived();
    scene.caller.poll(0);
    scene.start("takes the place");
    let waiting = scene.start("waits");
    assert!(scene.caller.has_unsent());
    scene.caller.free(waiting);
    assert!(!scene.caller.has_unsent());
}

#[test]
fn freed_calls_leave_nothing_behind() {
    let mut scene = Scene::new(view(&[1], 64, None));
    for round in 0..300 {
        let key = scene.start("x");
        match round % 3 {
            0 => scene.answer(0, "done"),
            1 => drop(scene.arrived()),
            _ => {}
        }
        scene.caller.free(key);
        let (_, lane, queue) = &mut scene.callees[0];
        scene.caller.flush();
        let mut blocks = Vec::new();
        lane.poll(64, &mut |request| {
            if let Request::Open { body, .. } = request {
                blocks.extend(body);
            }
        })
        .expect("no fault");
        blocks.into_iter().for_each(|block| lane.give_back(block));
        queue.clear();
        lane.flush();
        scene.caller.poll(0);
    }
    assert!(scene.caller.calls.is_empty() && scene.caller.deadlines.is_empty());
    assert_eq!(scene.caller.peers[&replica(1)].lane.in_flight(), 0);
    assert!(scene.caller.peers[&replica(1)].streams.is_empty());
}

#[test]
fn arguments_that_find_no_room_beside_others_follow_their_head() {
    let mut scene = Scene::new(view(&[1], 64, None));
    let keys: Vec<CallKey> = (0..8)
        .map(|_| scene.caller.start(NewCall { body: vec![1; 60_000], ..call("") }, 0).expect("room"))
        .collect();
    assert_eq!(scene.arrived()[0].len(), 8, "nobody waits behind them");
    keys.into_iter().for_each(|key| scene.caller.free(key));
    assert!(!scene.caller.has_unsent());
}

#[test]
fn a_silent_replica_gets_nothing_new_and_keeps_what_it_has() {
    let mut scene = Scene::new(view(&[1, 2], 2, None));
    let first = scene.start("before");
    assert_eq!(scene.arrived(), [vec![], vec!["before".to_owned()]]);
    let silent = vec![replica(2)];
    scene.announce(DeploymentView { silent, ..view(&[1, 2], 2, None) });
    for text in ["a", "b", "c"] {
        let _ = scene.start(text);
    }
    // The third waits, although there is room with the one that says nothing.
    assert_eq!(scene.arrived(), [vec!["a".to_owned(), "b".to_owned()], vec!["before".to_owned()]]);
    assert_eq!(scene.caller.outcome(first), Outcome::Pending);
    scene.announce(view(&[1, 2], 2, None));
    assert_eq!(scene.arrived()[1], ["before", "c"]);
}

#[test]
fn a_replica_that_holds_the_model_comes_first_while_it_has_room() {
    let mut scene = Scene::new(view(&[1, 2, 3], 2, None));
    scene.boards[1].set_models(&[model_hash("cat")]);
    for text in ["a", "b", "c"] {
        let asks = NewCall { model_id: "cat", ..call(text) };
        scene.caller.start(asks, 0).expect("room");
    }
    let arrived = scene.arrived();
    assert_eq!(arrived[1], ["a", "b"]);
    assert_eq!(arrived[0].len() + arrived[2].len(), 1, "the holder is full: another has it load");
    // Nobody holds it: the same one for each who asks.
    let mut scene = Scene::new(view(&[1, 2, 3], 2, None));
    scene.caller.start(NewCall { model_id: "dog", ..call("a") }, 0).expect("room");
    let first = scene.arrived().iter().position(|texts| !texts.is_empty()).expect("it went somewhere");
    scene.answer(first, "done");
    scene.caller.poll(0);
    scene.caller.start(NewCall { model_id: "dog", ..call("b") }, 0).expect("room");
    assert_eq!(scene.arrived()[first], ["b"]);
}

#[test]
fn a_call_for_one_replica_waits_for_that_and_holds_up_nobody() {
    let mut scene = Scene::new(view(&[1, 2], 1, None));
    let to = |number, text: &str| NewCall { replica: Some(replica(number)), ..call(text) };
    scene.caller.start(to(1, "first"), 0).expect("room");
    let second = scene.caller.start(to(1, "second"), 0).expect("it waits");
    scene.start("any");
    assert_eq!(scene.arrived(), [vec!["first"], vec!["any"]]);
    scene.answer(0, "done");
    scene.caller.poll(0);
    assert_eq!(scene.arrived(), [vec!["second"], vec!["any"]]);
    let third = scene.caller.start(to(1, "third"), 0).expect("it waits");
    scene.announce(view(&[2], 1, None));
    assert_eq!(scene.caller.outcome(third), Outcome::Failed(CallError::Gone(replica(1))));
    assert_eq!(scene.caller.outcome(second), Outcome::Pending, "what was sent goes on");
}

#[test]
fn the_head_of_a_reply_stands_before_its_end_and_the_rest_is_read() {
    let mut scene = Scene::new(view(&[1], 1, None));
    let key = scene.start("stream");
    assert_eq!(scene.caller.head(key), Ok(None));
    scene.arrived();
    let (_, lane, queue) = &mut scene.callees[0];
    let (stream, _) = queue.pop_front().expect("it arrived");
    assert!(lane.take(stream));
    let mut record = Vec::new();
    ResponseHead { status: 200, content_length: None, encoding: 0 }.encode([].into_iter(), &mut record);
    lane.head(stream, &record, b"one", false).expect("room");
    lane.flush();
    scene.caller.watch(key);
    scene.caller.poll(0);
    assert_eq!(scene.caller.take_touched(), [key]);
    assert_eq!(scene.caller.head(key).expect("it runs").map(|reply| reply.status), Some(200));
    let mut buffer = [0; 8];
    assert_eq!(scene.caller.read(key, &mut buffer), Ok(Some(3)));
    assert_eq!(scene.caller.read(key, &mut buffer), Ok(None));
    let (_, lane, _) = &mut scene.callees[0];
    lane.end(stream);
    lane.flush();
    scene.caller.poll(0);
    assert_eq!(scene.caller.read(key, &mut buffer), Ok(Some(0)));
}

#[test]
fn who_waits_where_there_is_no_replica_is_told_once_and_its_end_as_well() {
    let waits = |count| CallerReport::Waiting { deployment: name("model"), count };
    let mut scene = Scene::new(view(&[], 2, None));
    let first = scene.start("a");
    assert_eq!(scene.caller.take_reports(), [waits(1)]);
    let second = scene.start("b");
    assert_eq!(scene.caller.take_reports(), []);
    scene.caller.cancel(first);
    assert_eq!(scene.caller.take_reports(), []);
    scene.caller.cancel(second);
    assert_eq!(scene.caller.take_reports(), [waits(0)]);
    scene.announce(view(&[1], 1, None));
    // These wait for a replica that there is.
    scene.start("c");
    scene.start("d");
    assert_eq!(scene.caller.take_reports(), []);
}

#[test]
fn a_version_that_is_tried_gets_its_share_of_calls() {
    let tried = crate::control::CanaryView { replicas: vec![replica(2)], weight: 25 };
    let mut scene = Scene::new(DeploymentView { canary: Some(tried), ..view(&[1, 2], 100, None) });
    (0..20).for_each(|number| {
        scene.start(&number.to_string());
    });
    let shares: Vec<usize> = scene.arrived().iter().map(Vec::len).collect();
    assert_eq!(shares, [15, 5]);
}

#[test]
fn a_replica_that_answers_late_holds_no_view_up_and_is_used_once_it_has() {
    let mut scene = Scene::new(view(&[1], 5, None));
    let order = CallerOrder::Attach { deployment: name("model"), replica: replica(2), requests: 5 };
    assert_eq!(scene.caller.handle(order), Some(replica(2)));
    let key = scene.caller.joining(&replica(2)).expect("it is on its way");
    scene.caller.handle(CallerOrder::View {
        deployment: name("model"),
        generation: Generation(9),
        view: Some(Box::new(view(&[2], 5, None))),
        known: Vec::new(),
    });
    let applied = || CallerReport::Applied { deployment: name("model"), generation: Generation(9) };
    assert!(!scene.caller.take_reports().contains(&applied()), "the view waits for its replica");
    assert!(scene.caller.unanswered(&replica(2), key).is_some());
    assert!(scene.caller.take_reports().contains(&applied()));
    let waiting = scene.caller.start(call("a"), 0).unwrap();
    assert_eq!(scene.caller.outcome(waiting), Outcome::Pending);

    let (near, mut far, _board) =
        attach::local_with_board(1, Geometry::default(), UpBell::Pipe).expect("a channel");
    scene.caller.attached(replica(2), Ok(near));
    assert_eq!(scene.caller.joining(&replica(2)), None);
    scene.caller.flush();
    let mut opened = 0;
    far.lanes[0]
        .poll(9, &mut |request| opened += u32::from(matches!(request, Request::Open { .. })))
        .unwrap();
    assert_eq!(opened, 1, "the call that waited goes there");
}

/// Replica 1 served up to the change before epoch 5, replica 2 serves since.
fn changed(entry: u64) -> DeploymentView {
    let old = Span { since: Epoch(0), until: Epoch(4) };
    let new = Span { since: Epoch(5), until: Epoch::NEVER };
    let set = SetView { known: Epoch(5), spans: vec![old, new] };
    DeploymentView { entry: Epoch(entry), set: Some(set), ..view(&[1, 2], 2, None) }
}

/// Replica 2 is there, and its set has not changed over.
fn unchanged() -> DeploymentView {
    let set = SetView { known: Epoch(4), spans: vec![Span::ALL, Span::AWAITED] };
    DeploymentView { entry: Epoch(4), set: Some(set), ..view(&[1, 2], 2, None) }
}

fn of_epoch(epoch: u64, text: &str) -> NewCall<'static> {
    NewCall { epoch: Some(Epoch(epoch)), ..call(text) }
}

#[test]
fn a_call_stays_with_the_versions_that_its_request_has_entered() {
    let mut scene = Scene::new(unchanged());
    scene.start("before");
    assert_eq!(scene.arrived(), [vec!["before".to_owned()], vec![]]);
    scene.announce(changed(4));
    scene.start("still before");
    scene.announce(changed(5));
    scene.start("after");
    for (epoch, text) in [(4, "old"), (5, "new")] {
        scene.caller.start(of_epoch(epoch, text), 0).expect("it may be sent or wait");
    }
    let mut arrived = scene.arrived();
    assert_eq!(arrived[1], ["after", "new"]);
    assert_eq!(
        arrived[0],
        ["before", "still before"],
        "it has no room for the old one, and nobody else takes it"
    );
    scene.answer(0, "done");
    arrived = scene.arrived();
    assert_eq!(arrived[0], ["still before", "old"]);
}

#[test]
fn a_call_waits_for_the_word_of_a_change_that_its_request_knows_of_already() {
    let mut scene = Scene::new(unchanged());
    scene.caller.start(of_epoch(5, "new"), 0).expect("it waits");
    scene.start("before");
    assert_eq!(scene.arrived(), [vec!["before".to_owned()], vec![]], "others are not held up");
    scene.announce(changed(4));
    assert_eq!(scene.arrived(), [vec!["before".to_owned()], vec!["new".to_owned()]]);
}

#[test]
fn a_call_whose_versions_are_gone_is_refused() {
    let mut scene = Scene::new(changed(5));
    let waits = [1, 2, 3].map(|_| scene.caller.start(of_epoch(4, "old"), 0).expect("it may be sent or wait"));
    let mut after = changed(5);
    after.replicas.remove(0);
    after.set.as_mut().expect("it is one of a set").spans.remove(0);
    scene.announce(after);
    let refused =
        |outcome| matches!(outcome, Outcome::Failed(CallError::Unavailable(why)) if why.contains("gone"));
    assert_eq!(
        waits.map(|key| refused(scene.caller.outcome(key))),
        [false, false, true],
        "two were sent before"
    );
}

#[test]
fn the_oldest_epoch_is_told_when_the_last_call_that_entered_by_it_has_ended() {
    let mut scene = Scene::new(unchanged());
    let before = scene.start("before");
    let told = |scene: &mut Scene| {
        let mut reports = scene.caller.take_reports();
        reports.retain(|report| matches!(report, CallerReport::Oldest(_)));
        reports
    };
    scene.announce(changed(5));
    scene.caller.start(of_epoch(4, "of another's request"), 0).expect("it may be sent");
    scene.arrived();
    assert_eq!(told(&mut scene), []);
    scene.answer(0, "done");
    scene.caller.poll(0);
    assert_eq!(scene.caller.outcome(before), Outcome::Ready);
    assert_eq!(told(&mut scene), [CallerReport::Oldest(Epoch(5))]);
    scene.caller.poll(0);
    assert_eq!(told(&mut scene), []);
}

#[test]
fn a_call_that_enters_anew_after_a_death_takes_the_present_versions() {
    let mut scene = Scene::new(unchanged());
    scene.start("entered here");
    scene.caller.start(of_epoch(4, "old"), 0).expect("it may be sent");
    scene.announce(changed(5));
    scene.caller.died(&replica(1));
    assert_eq!(scene.arrived()[1], ["entered here"]);
}
