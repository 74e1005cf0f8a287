//! Reads a stream of server-sent events.

use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::HeaderMap;
use futures::{Stream, StreamExt as _};
use serde_json::Value;

use crate::app::{Call, DEADLINE};

#[derive(Debug, Clone)]
pub struct Event {
    pub name: String,
    pub id: Option<String>,
    pub data: Value,
}

pub struct Events {
    pub headers: HeaderMap,
    body: Pin<Box<dyn Stream<Item = Result<Bytes, axum::Error>> + Send>>,
    text: String,
}

impl Events {
    pub async fn of(call: Call<'_>) -> Self {
        let response = call.open().await;
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().unwrap();
        assert_eq!(kind, "text/event-stream");
        let (parts, body) = response.into_parts();
        let body = Box::pin(body.into_data_stream());
        Self { headers: parts.headers, body, text: String::new() }
    }

    /// The next event; within the deadline, or the test fails.
    pub async fn next(&mut self) -> Event {
        self.within(DEADLINE).await.expect("an event within the deadline")
    }

    /// The next event of a name; what comes before it is of no interest.
    pub async fn named(&mut self, name: &str) -> Event {
        self.such(name, |_| true).await
    }

    /// The next event of a name whose data are such; within the deadline, however many others come.
    pub async fn such(&mut self, name: &str, is: impl Fn(&Value) -> bool) -> Event {
        let begun = Instant::now();
        loop {
            let event = self.next().await;
            if event.name == name && is(&event.data) {
                return event;
            }
            assert!(begun.elapsed() < DEADLINE, "no {name} of this kind");
        }
    }

    /// What comes next on the wire, comments too; nothing where nothing comes in time.
    pub async fn raw(&mut self, wait: Duration) -> Option<Bytes> {
        let next = tokio::time::timeout(wait, self.body.next()).await;
        Some(next.ok()?.expect("the stream goes on").unwrap())
    }

    /// Whether the stream ends, with nothing more in it.
    pub async fn has_ended(&mut self) -> bool {
        tokio::time::timeout(DEADLINE, self.body.next()).await.is_ok_and(|chunk| chunk.is_none())
    }

    /// What has been told and not been read, once nothing more comes.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.within(Duration::from_millis(100)).await {
            events.push(event);
        }
        events
    }

    async fn within(&mut self, wait: Duration) -> Option<Event> {
        let read = async {
            loop {
                while let Some((block, rest)) = self.text.split_once("\n\n") {
                    let event = parsed(block);
                    self.text = rest.to_owned();
                    if event.is_some() {
                        return event;
                    }
                }
                let chunk = self.body.next().await?.unwrap();
                self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            }
        };
        tokio::time::timeout(wait, read).await.ok().flatten()
    }
}

fn parsed(block: &str) -> Option<Event> {
    let field = |name: &str| {
        let mut lines = block.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(field, _)| *field == name).map(|(_, value)| value.to_owned())
    };
    let data = serde_json::from_str(&field("data")?).unwrap();
    Some(Event { name: field("event")?, id: field("id"), data })
}
