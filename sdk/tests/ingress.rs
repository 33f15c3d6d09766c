//! Axum routers as classes, driven through the plugin ABI by the host of `decurion::test`.
#![cfg(feature = "axum")]

use std::convert::Infallible;
use std::sync::Arc;

use decurion::axum::Router;
use decurion::axum::body::Body;
use decurion::axum::extract::ws::{Message, WebSocketUpgrade};
use decurion::axum::extract::{OriginalUri, Path};
use decurion::axum::http::{HeaderValue, StatusCode};
use decurion::axum::middleware::{self, Next};
use decurion::axum::response::sse::{Event, Sse};
use decurion::axum::response::{IntoResponse, Response};
use decurion::axum::routing::{get, post};
use decurion::prelude::{Deserialize, Request, deployment, json};
use decurion::test::Local;
use futures_util::stream;

/// A router that depends on its configuration.
#[derive(Debug)]
pub struct Site {
    word: Arc<str>,
}

#[derive(Debug, Deserialize)]
struct Config {
    word: String,
}

#[deployment]
impl Site {
    fn new() -> Self {
        Self { word: "first".into() }
    }

    fn ingress(&self) -> Router {
        let word = Arc::clone(&self.word);
        Router::new()
            .route("/", get(move || async move { word.to_string() }))
            .route("/users/{id}", get(|Path(id): Path<u32>| async move { format!("user {id}") }))
            .route("/uri", get(|OriginalUri(uri): OriginalUri| async move { uri.to_string() }))
            .route("/echo", post(|body: Body| async { body }))
            .route("/length", post(|body: String| async move { body.len().to_string() }))
            .route("/talk", get(talk))
            .route("/none", get(|| async { StatusCode::NO_CONTENT }))
            .route("/cookies", get(cookies))
            .route("/panic", get(panics))
            .route("/events", get(events))
            .route("/broken", get(broken))
            .nest("/guarded", Router::new().route("/uri", get(uri)).layer(middleware::from_fn(guard)))
    }

    /// A method beside the router.
    pub fn word(&self) -> String {
        self.word.to_string()
    }

    fn reconfigure(&mut self, config: Config) {
        self.word = config.word.into();
    }
}

async fn cookies() -> impl IntoResponse {
    let cookies = [("set-cookie", "a=1"), ("x-kind", "two")];
    (StatusCode::CREATED, cookies, "made")
}

async fn events() -> impl IntoResponse {
    let events = ["one", "two"].map(|word| Ok::<_, Infallible>(Event::default().event("word").data(word)));
    Sse::new(stream::iter(events))
}

/// Fails before there is anything of its body.
async fn broken() -> Body {
    Body::from_stream(stream::iter([Err::<&str, _>("a secret")]))
}

async fn uri(uri: decurion::axum::http::Uri) -> String {
    uri.to_string()
}

/// Lets in who has a key, and marks what it gets.
async fn guard(request: decurion::axum::extract::Request, next: Next) -> Response {
    if !request.headers().contains_key("x-key") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut answer = next.run(request).await;
    answer.headers_mut().insert("x-guarded", HeaderValue::from_static("yes"));
    answer
}

async fn panics() -> &'static str {
    panic!("a secret")
}

fn site() -> Local<Site> {
    Local::new(()).unwrap()
}

#[test]
fn the_router_answers() {
    let site = site();
    assert_eq!(site.get("/").unwrap().text().unwrap(), "first");
    assert_eq!(site.get("/users/7").unwrap().text().unwrap(), "user 7");
    assert_eq!(site.get("/users/x").unwrap().status(), 400);
    assert_eq!(site.get("/nowhere").unwrap().status(), 404);
    assert_eq!(site.request(Request::post("/users/7", "")).unwrap().status(), 405);
    assert_eq!(site.get("/uri?a=b%20c").unwrap().text().unwrap(), "/uri?a=b%20c");
    let none = site.get("/none").unwrap();
    assert_eq!((none.status().as_u16(), none.header("content-type"), none.body().len()), (204, None, 0));
    let made = site.get("/cookies").unwrap();
    assert_eq!(
        (made.status().as_u16(), made.header("set-cookie"), made.header("x-kind")),
        (201, Some("a=1"), Some("two"))
    );
    assert_eq!(made.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(site.call::<String>("word", ()).unwrap(), "first");
}

#[test]
fn nested_routers_layers_and_events_work() {
    let site = site();
    assert_eq!(site.get("/guarded/uri").unwrap().status(), 401);
    let request = Request::get("/guarded/uri?a=b").with_header("x-key", "k").unwrap();
    let answer = site.request(request).unwrap();
    assert_eq!((answer.text().unwrap(), answer.header("x-guarded")), ("/uri?a=b", Some("yes")));
    assert_eq!(site.get("/uri").unwrap().header("x-guarded"), None);
    let events = site.get("/events").unwrap();
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.text().unwrap(), "event: word\ndata: one\n\nevent: word\ndata: two\n\n");
}

#[test]
fn bodies_of_any_size_go_through() {
    let site = site();
    for size in [0, 1, 100, 1_000_000] {
        let body = "x".repeat(size);
        assert_eq!(site.request(Request::post("/echo", body.clone())).unwrap().text().unwrap(), body);
        assert_eq!(site.request(Request::post("/length", body)).unwrap().text().unwrap(), size.to_string());
    }
}

#[test]
fn a_panic_is_an_answer() {
    let site = site();
    let answer = site.get("/panic").unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().unwrap()), (500, "Internal Server Error"));
    let answer = site.get("/broken").unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().unwrap()), (500, "Internal Server Error"));
    assert_eq!(site.get("/").unwrap().status(), 200);
}

#[test]
fn a_new_configuration_makes_a_new_router() {
    let site = site();
    assert_eq!(site.get("/").unwrap().text().unwrap(), "first");
    site.reconfigure(json!({ "word": "second" })).unwrap();
    assert_eq!(site.get("/").unwrap().text().unwrap(), "second");
}

async fn talk(upgrade: WebSocketUpgrade) -> impl IntoResponse {
    upgrade.protocols(["chat"]).on_upgrade(|mut socket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            let answer = match message {
                Message::Text(text) if text == "panic" => panic!("on purpose"),
                Message::Text(text) => Message::Text(text.to_uppercase().into()),
                Message::Binary(bytes) => Message::Binary(bytes),
                _ => continue,
            };
            if socket.send(answer).await.is_err() {
                return;
            }
        }
    })
}

#[test]
fn websockets_of_axum_talk() {
    let site = Local::<Site>::new(()).unwrap();
    let mut clients: Vec<_> = (0..20).map(|_| site.websocket("/talk").unwrap()).collect();
    let large: Vec<u8> = (0..1_000_000u32).map(|number| number.to_le_bytes()[1]).collect();
    for client in &mut clients {
        client.send("hello").unwrap();
        client.send(large.clone()).unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.recv().unwrap(), Some("HELLO".into()));
        assert!(client.recv().unwrap() == Some(large.clone().into()));
        client.close(1000, "").unwrap();
        assert_eq!(client.recv().unwrap(), None);
    }
    clients[0].send("too late").unwrap_err();
    // Whose handler fails is gone, and the others are not.
    let [mut one, mut two] = [site.websocket("/talk").unwrap(), site.websocket("/talk").unwrap()];
    one.send("panic").unwrap();
    one.recv().unwrap_err();
    two.send("still here").unwrap();
    assert_eq!(two.recv().unwrap(), Some("STILL HERE".into()));
}

#[test]
fn an_offer_that_the_router_does_not_take_is_answered_as_usual() {
    let site = Local::<Site>::new(()).unwrap();
    assert_eq!(site.websocket("/users/7").unwrap_err().code().unwrap().as_u16(), 500, "a 200 is no error");
    assert_eq!(site.websocket("/nowhere").unwrap_err().code(), Some(StatusCode::NOT_FOUND));
    assert_eq!(site.websocket("/panic").unwrap_err().message(), "Internal Server Error");
    assert_eq!(site.get("/talk").unwrap().status(), StatusCode::BAD_REQUEST);
}
