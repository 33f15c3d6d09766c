//! Websockets of deployments, through the local host: what an author sees, and what a client does.
#![cfg(feature = "websocket")]
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "classes as an author writes them"
)]

use decurion::prelude::*;
use decurion::test::{Local, WebSocketClient};
use decurion::{Message, Response};

#[deployment]
fn echo(_req: Request) -> Response {
    Response::websocket(|ws| {
        ws.set_max_message(100_000);
        while let Some(message) = ws.recv()? {
            ws.send(message)?;
        }
        Ok(())
    })
}

#[deployment]
fn fickle(req: Request) -> Response {
    let what = req.sub_path().to_owned();
    let choice = req.header("sec-websocket-protocol").unwrap_or("none").to_owned();
    Response::websocket(move |ws| match what.as_str() {
        "/panic" => panic!("on purpose"),
        "/error" => Err(Error::msg("a secret")),
        "/public" => Err(Error::status(422, "no such room")),
        "/close" => ws.close(4001, "go away"),
        "/bad-close" => {
            let refused = ws.close(1005, "").unwrap_err();
            ws.send(refused.to_string())
        }
        "/iterate" => {
            let mut sum = 0.0;
            for message in ws.by_ref() {
                sum += message?.parse::<f64>()?;
            }
            // It has closed: nobody hears the sum, and that is no mistake of ours.
            assert!(ws.send(sum.to_string()).is_err());
            assert_eq!(ws.close_code(), Some(3000));
            Ok(())
        }
        "/push" => {
            for number in 0..3 {
                ws.send(Message::json(&number)?)?;
            }
            Ok(())
        }
        "/flood" => loop {
            ws.send(vec![7; 60_000])?;
        },
        _ => ws.send(choice),
    })
}

fn client(what: &str) -> WebSocketClient {
    Local::<fickle>::new(()).unwrap().websocket(what).unwrap()
}

/// The code that it is closed with; nothing may come before.
fn code(client: &mut WebSocketClient) -> Option<u16> {
    assert_eq!(client.recv().unwrap(), None);
    client.close_code()
}

#[test]
fn messages_come_back_as_they_went() {
    let local = Local::<echo>::new(()).unwrap();
    let mut client = local.websocket("/").unwrap();
    for message in ["", "a", "ü\u{1F600}", &"x".repeat(99_999)] {
        client.send(message).unwrap();
        assert_eq!(client.recv().unwrap(), Some(Message::from(message)));
    }
    for bytes in [vec![], vec![0], vec![0xff; 100_000]] {
        client.send(bytes.clone()).unwrap();
        assert_eq!(client.recv().unwrap(), Some(Message::from(bytes)));
    }
    client.close(1000, "bye").unwrap();
    assert_eq!(code(&mut client), Some(1000));
}

#[test]
fn what_is_too_large_is_told_so() {
    let mut client = Local::<echo>::new(()).unwrap().websocket("/").unwrap();
    client.send("x".repeat(100_001)).unwrap();
    assert_eq!(code(&mut client), Some(1009));
}

#[test]
fn a_handler_that_is_through_closes_in_order() {
    let mut client = client("/push");
    for number in 0..3 {
        assert_eq!(client.recv().unwrap().unwrap().parse::<i32>().unwrap(), number);
    }
    assert_eq!(code(&mut client), Some(1000));
}

#[test]
fn a_handler_that_fails_closes_with_1011() {
    for what in ["/panic", "/error", "/public"] {
        assert_eq!(code(&mut client(what)), Some(1011), "{what}");
    }
}

#[test]
fn a_handler_closes_with_codes_of_its_own() {
    assert_eq!(code(&mut client("/close")), Some(4001));
    let mut client = client("/bad-close");
    let refused = client.recv().unwrap().unwrap();
    assert!(refused.text().unwrap().contains("1005"), "{refused:?}");
}

#[test]
fn a_handler_sees_how_the_client_closed() {
    let mut client = client("/iterate");
    client.send("1.5").unwrap();
    client.send("2").unwrap();
    client.close(3000, "").unwrap();
    assert_eq!(code(&mut client), Some(3000));
}

#[test]
fn a_client_that_is_gone_ends_its_handler() {
    let local = Local::<fickle>::new(()).unwrap();
    let mut gone = local.websocket("/flood").unwrap();
    gone.recv().unwrap();
    drop(gone);
    let local = Local::<echo>::new(()).unwrap();
    let mut silent = local.websocket("/").unwrap();
    silent.half_close();
    assert_eq!(code(&mut silent), Some(1001), "whoever still listens is told so");
}

#[test]
fn a_subprotocol_is_read_and_chosen() {
    let local = Local::<fickle>::new(()).unwrap();
    let mut client = local.websocket_with("/", &[("sec-websocket-protocol", "chat, other")]).unwrap();
    assert_eq!(client.recv().unwrap(), Some("chat, other".into()));
}

#[test]
fn what_asks_for_no_websocket_is_told_how_to() {
    let local = Local::<echo>::new(()).unwrap();
    let answer = local.get("/").unwrap();
    assert_eq!((answer.status().as_u16(), answer.header("upgrade")), (426, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-version"), Some("13"));
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use super::*;

    #[deployment]
    async fn chatty(req: Request) -> Response {
        let what = req.sub_path().to_owned();
        Response::websocket_async(move |ws| {
            Box::pin(async move {
                if what == "/panic" {
                    panic!("on purpose");
                }
                let mut count = 0;
                while count < 3 {
                    decurion::tokio::select! {
                        message = ws.recv() => match message? {
                            Some(message) => ws.send(message).await?,
                            None => return Ok(()),
                        },
                        // Ready at the second look: `recv` is given up between two of its own.
                        () = decurion::tokio::task::yield_now() => {
                            count += 1;
                            ws.send(format!("tick {count}")).await?;
                        }
                    }
                }
                Ok(())
            })
        })
    }

    #[test]
    fn receiving_may_be_given_up_half_way() {
        let local = Local::<chatty>::new(()).unwrap();
        let mut client = local.websocket("/").unwrap();
        let (mut ticks, mut echoes) = (0, 0);
        for round in 0..6 {
            client.send(format!("message {round}")).unwrap_or_default();
        }
        while let Some(message) = client.recv().unwrap() {
            match message.text().unwrap() {
                text if text.starts_with("tick") => ticks += 1,
                text => {
                    assert_eq!(text, format!("message {echoes}"));
                    echoes += 1;
                }
            }
        }
        assert_eq!(ticks, 3);
        assert_eq!(client.close_code(), Some(1000));
    }

    #[test]
    fn a_future_that_panics_closes_with_1011() {
        let mut client = Local::<chatty>::new(()).unwrap().websocket("/panic").unwrap();
        assert_eq!(code(&mut client), Some(1011));
    }

    #[deployment]
    async fn mixed(_req: Request) -> Response {
        Response::websocket(|ws| ws.send("from a thread"))
    }

    #[test]
    fn an_async_handler_may_answer_with_one_that_waits() {
        let mut client = Local::<mixed>::new(()).unwrap().websocket("/").unwrap();
        assert_eq!(client.recv().unwrap(), Some("from a thread".into()));
        assert_eq!(code(&mut client), Some(1000));
    }
}
