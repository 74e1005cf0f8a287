//! Follows the session's stream of invoices: resumes after the last event, and connects again, less and less often, where it breaks.

use std::time::Duration;

use tokio::time::Instant;

use super::events::{Event, Reader};
use super::play::Stage;
use super::receipt::End;
use super::session::Remote;
use crate::runtime::{Backoff, Clock as _, SystemClock};

const RECONNECT_FIRST: Duration = Duration::from_millis(500);
const RECONNECT_MAX: Duration = Duration::from_secs(15);
/// A connection that held for so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// A server that is away for so long is gone.
const AWAY_MAX: Duration = Duration::from_secs(300);

/// Follows until the session ends or the server lies.
pub(super) async fn run(stage: &Stage<'_>) {
    let mut reader = Reader::default();
    let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX);
    let mut away: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        match stage.remote.events(reader.last_id()).await {
            Ok(None) => {
                stop(stage, End::Server("the session is no more on the server".to_owned()));
                return;
            }
            Ok(Some(mut stream)) => {
                if away.take().is_some() {
                    stage.screen.note("the server is back");
                }
                while let Some(bytes) = Remote::chunk(&mut stream).await {
                    match take(stage, &mut reader, &bytes) {
                        Ok(false) => {}
                        Ok(true) => {
                            stop(stage, End::Server("the session was ended".to_owned()));
                            return;
                        }
                        Err(words) => return stop(stage, End::Lied(words)),
                    }
                }
            }
            Err(error) => {
                if away.is_none() {
                    stage
                        .screen
                        .note(&format!("the stream of invoices broke ({error}); connecting again"));
                }
                if away.get_or_insert_with(Instant::now).elapsed() > AWAY_MAX {
                    stop(stage, End::Server("the server is gone".to_owned()));
                    return;
                }
            }
        }
        if begun.elapsed() > GOOD {
            backoff.reset();
        }
        reader = reader.resumed();
        tokio::time::sleep(backoff.step()).await;
    }
}

/// Takes what these bytes tell; true at the end of the session.
fn take(stage: &Stage<'_>, reader: &mut Reader, bytes: &[u8]) -> Result<bool, String> {
    for event in reader.push(bytes, SystemClock.now_ms())? {
        if event == Event::End {
            return Ok(true);
        }
        stage.visit.with(|account, _| account.told(event))?;
    }
    Ok(false)
}

fn stop(stage: &Stage<'_>, end: End) {
    let words = end.words();
    if stage.visit.stop(end) {
        stage.screen.note(&format!("nothing more is paid: {words}"));
    }
}
