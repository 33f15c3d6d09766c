//! A room to talk in. What is said comes by websocket, and goes to everybody by websocket or as server-sent events.

use decurion::StatusCode;
use decurion::prelude::*;
use decurion::tokio::select;
use decurion::tokio::sync::broadcast::error::RecvError;
use decurion::tokio::sync::broadcast::{Receiver, Sender, channel};

/// Messages kept for those who are slow; who is slower misses some.
const BACKLOG: usize = 64;
/// Bytes of what is said at once, at most.
const MESSAGE_MAX: usize = 4096;

/// The room.
#[derive(Debug)]
pub struct Chat {
    said: Sender<String>,
}

#[deployment]
impl Chat {
    fn new() -> Self {
        Self { said: channel(BACKLOG).0 }
    }

    async fn call(&self, req: Request) -> Response {
        match req.sub_path() {
            "" | "/" => {
                Response::new(200, include_str!("page.html")).with_header("content-type", "text/html")
            }
            "/events" => listen(self.said.subscribe()),
            "/ws" => talk(self.said.clone()),
            _ => Response::new(StatusCode::NOT_FOUND, "There is /, /events and /ws.\n"),
        }
    }
}

fn listen(mut said: Receiver<String>) -> Response {
    Response::stream_async(move |w| {
        Box::pin(async move {
            // Whoever listens knows from now on that nothing is missed.
            w.event("welcome").await?;
            while let Some(text) = next(&mut said).await {
                w.event(text).await?;
            }
            Ok(())
        })
    })
}

fn talk(room: Sender<String>) -> Response {
    Response::websocket_async(move |ws| {
        Box::pin(async move {
            ws.set_max_message(MESSAGE_MAX);
            let mut said = room.subscribe();
            ws.send("welcome").await?;
            loop {
                select! {
                    message = ws.recv() => match message? {
                        // At least this one listens.
                        Some(message) => drop(room.send(message.text()?.to_owned())),
                        None => return Ok(()),
                    },
                    text = next(&mut said) => match text {
                        Some(text) => ws.send(text).await?,
                        None => return Ok(()),
                    },
                }
            }
        })
    })
}

async fn next(said: &mut Receiver<String>) -> Option<String> {
    loop {
        match said.recv().await {
            Ok(text) => return Some(text),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use decurion::test::Local;

    use super::*;

    #[test]
    fn what_one_says_all_hear() {
        let room = Local::<Chat>::new(()).unwrap();
        let mut people: Vec<_> = (0..3).map(|_| room.websocket("/ws").unwrap()).collect();
        for person in &mut people {
            assert_eq!(person.recv().unwrap(), Some("welcome".into()));
        }
        people[1].send("hello").unwrap();
        for person in &mut people {
            assert_eq!(person.recv().unwrap(), Some("hello".into()));
        }
    }
}
