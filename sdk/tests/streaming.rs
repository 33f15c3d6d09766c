//! Answers that are written bit by bit, driven through the plugin ABI by the host of `decurion::test`.

use std::io::Read;

use decurion::prelude::*;
use decurion::test::Local;

#[deployment]
fn streams(req: Request) -> Result<Response> {
    let many = "0123456789".repeat(10_000);
    Ok(match req.sub_path() {
        "/small" => Response::stream(|w| {
            w.write("a")?;
            w.write(b"b")
        }),
        "/large" => Response::stream(move |w| {
            w.write("begin ")?;
            w.write(&many)?;
            w.write(" end")
        })
        .with_header("content-type", "text/plain")
        .with_header("x-kind", "large"),
        "/events" => Response::stream(|w| {
            w.event("one")?;
            w.event(decurion::Event::new("two").named("second").with_id("2"))
        }),
        "/own-type" => {
            Response::stream(|w| w.event("one")).with_header("content-type", "application/x-events")
        }
        "/early" => Response::stream(|w| {
            w.write("never seen")?;
            Err(Error::status(422, "not that"))
        }),
        "/late" => Response::stream(|w| {
            w.flush()?;
            Err(Error::msg("a secret"))
        }),
        "/panic" => Response::stream(|_| panic!("a secret")),
        "/bad-header" => Response::stream(|w| w.write("x")).with_header("x", "a\r\nb: c"),
        "/echo" => Response::stream(move |w| {
            std::io::copy(&mut req.reader().take(7), w)?;
            Ok(())
        }),
        _ => Response::new(404, ""),
    })
}

fn ask(path: &str) -> (u16, String, String) {
    let answer = Local::<streams>::new(()).unwrap().request(Request::post(path, "0123456789")).unwrap();
    let content_type = answer.header("content-type").unwrap_or_default().to_owned();
    (answer.status().as_u16(), content_type, answer.text().unwrap().to_owned())
}

#[test]
fn what_is_written_arrives_in_order() {
    assert_eq!(ask("/small"), (200, "application/octet-stream".into(), "ab".into()));
    let (status, content_type, text) = ask("/large");
    assert_eq!((status, content_type.as_str(), text.len()), (200, "text/plain", 100_010));
    assert!(text.starts_with("begin 0123") && text.ends_with("789 end"));
    assert_eq!(ask("/echo").2, "0123456");
}

#[test]
fn events_know_their_type_unless_the_author_chose_one() {
    let (status, content_type, text) = ask("/events");
    assert_eq!((status, content_type.as_str()), (200, "text/event-stream"));
    assert_eq!(text, "data: one\n\nevent: second\nid: 2\ndata: two\n\n");
    assert_eq!(ask("/own-type").1, "application/x-events");
}

#[test]
fn an_error_before_the_first_byte_is_an_answer_and_later_it_cuts() {
    assert_eq!(ask("/early").0, 422);
    assert_eq!(ask("/early").2, "not that");
    assert_eq!(ask("/panic"), (500, "text/plain; charset=utf-8".into(), "Internal Server Error".into()));
    assert_eq!(ask("/bad-header").0, 500);
    let local = Local::<streams>::new(()).unwrap();
    let error = local.get("/late").unwrap_err();
    assert!(error.to_string().contains("cut its answer off"), "{error}");
    assert_eq!(local.get("/small").unwrap().text().unwrap(), "ab");
}
