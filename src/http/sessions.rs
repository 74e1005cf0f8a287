//! Sessions: playback for players that cannot pay, and the stream of invoices for the wallet beside them.

use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::IntoResponse;
use axum::response::sse::Event as Sse;
use futures::stream;
use serde::{Deserialize, Serialize};

use super::error::{Answer, Problem};
use super::extract::{Document, From, Path, Query, named};
use super::play::{Asked, File, init, media_playlist};
use super::{App, Shared, event_stream, extras};
use crate::blobs::Part;
use crate::domain::amount::Msat;
use crate::domain::id::{
    NodeId, PaymentHash, Preimage, RenditionName, SegmentNumber, SessionId, VideoId,
};
use crate::library::{self, Published};
use crate::paywall::egress::Bought;
use crate::paywall::session::{Event, Followed, Follower, Numbered, Play, Stage, Status, Wish};
use crate::paywall::token::{SessionKind, SessionToken};

/// `POST /api/v1/sessions`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    video: VideoId,
    ahead: Option<u8>,
    bundle: Option<u8>,
    hold_ms: Option<u16>,
    max_msat: Option<Msat>,
}

#[derive(Serialize)]
struct Created {
    id: SessionId,
    playlist: String,
    control: String,
    payee: NodeId,
    network: crate::lightning::Network,
    msat_per_second: u64,
    granularity_msat: u64,
    first_paid_segment: Option<SegmentNumber>,
    expires_at: u64,
}

/// Begins a session.
pub async fn create(
    State(app): State<App>,
    From(client): From,
    Document(create): Document<Create>,
) -> Answer {
    let published = app.library.published(create.video, None)?;
    let wish = Wish {
        ahead: create.ahead,
        bundle: create.bundle,
        hold_ms: create.hold_ms,
        max: create.max_msat,
    };
    let terms = app.library.terms(&published.video);
    let opened = app.sessions.open(&published.media, create.video, terms, wish, client)?;
    let created = Created {
        id: opened.session.id,
        playlist: format!("/s/{}/index.m3u8", opened.play),
        control: format!("/api/v1/sessions/{}", opened.control),
        payee: app.payee,
        network: app.network,
        msat_per_second: terms.price.get(),
        granularity_msat: terms.granularity.get(),
        first_paid_segment: opened.first_paid,
        expires_at: opened.session.expires_at,
    };
    let fresh = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::CREATED, fresh, Json(created)).into_response())
}

/// `GET /s/{play}/index.m3u8`
pub async fn multivariant(State(app): State<App>, Path(play): Path<String>) -> Answer {
    extras::multivariant(&app, &watched(&app, &play)?, "").await
}

/// `GET /s/{play}/{rendition}/{file}`
pub async fn part(
    State(app): State<App>,
    Path((play, rendition, file)): Path<(String, String, String)>,
    From(client): From,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    let begun = Instant::now();
    let (session, published) = opened(&app, SessionKind::Play, &play)?;
    let name;
    let (number, asked, free) = match &extras::Place::parse(&rendition, &file)? {
        Some(extras::Place::Cues(language, number)) => {
            let asked = extras::cues(&app, &published, language, *number, &headers, client).await?;
            (*number, asked.0, asked.1)
        }
        Some(place) => return extras::media_playlist(&app, &published, place).await,
        None => {
            name = named::<RenditionName>(&rendition)?;
            match File::parse(&file)? {
                File::Playlist => return media_playlist(&published),
                File::Init => {
                    return init(&app, &published, &name, &method, &headers, client).await;
                }
                File::Segment(number) => {
                    let part = Part::Segment(number);
                    (number, Asked::of(&app, &published, &name, part, &headers, client), false)
                }
            }
        }
    };
    // What is not there is not invoiced.
    let len = asked.len().await?;
    if method == Method::HEAD {
        // A session's segment is charged and held on GET alone.
        return Ok(asked.head(len));
    }
    if free {
        // Nobody waits for it, and the playhead is where the film is.
        return Ok(match asked.ready(false).await? {
            Ok(ready) => ready.media(None),
            Err(answer) => answer,
        });
    }
    loop {
        let play = app.sessions.wait(&session, stage(&published), number, client).await?;
        // A place among those who wait is kept until the segment is taken.
        let (bought, _place) = match play {
            Play::Owed { invoice, amount } => {
                return Err(Problem::session_unpaid(amount.get(), invoice.as_deref()));
            }
            Play::Free => (None, None),
            Play::Granted(place) => (Some(Bought::InSession(session.id, number)), place),
        };
        let ready = match asked.ready(bought.is_some()).await? {
            Ok(ready) => ready,
            Err(answer) => return Ok(answer),
        };
        let passage = ready.enter(bought)?;
        if app.sessions.take(&session, stage(&published), number, client)? {
            app.metrics.served(begun.elapsed());
            return Ok(ready.media(passage));
        }
    }
}

/// `GET /api/v1/sessions/{control}`
pub async fn status(State(app): State<App>, Path(control): Path<String>) -> Answer<Json<Status>> {
    let session = app.sessions.session(SessionKind::Control, &control)?;
    Ok(Json(app.sessions.status(&session)?))
}

/// `PATCH /api/v1/sessions/{control}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    paused: Option<bool>,
    #[serde(default)]
    rotate_play: bool,
    failed: Option<PaymentHash>,
}

#[derive(Serialize)]
struct Changed {
    #[serde(flatten)]
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    playlist: Option<String>,
}

/// Pauses, reports a failed payment, or makes a new play key.
pub async fn change(
    State(app): State<App>,
    Path(control): Path<String>,
    From(client): From,
    Document(patch): Document<Patch>,
) -> Answer {
    let (session, published) = opened(&app, SessionKind::Control, &control)?;
    app.paywall.limit_rate(client)?;
    if let Some(paused) = patch.paused {
        app.sessions.pause(&session, paused, published.split, client)?;
    }
    if let Some(failed) = patch.failed {
        app.sessions.report_failed(&session, failed, published.split, client)?;
    }
    let rotated = if patch.rotate_play {
        Some(app.sessions.rotate(&session, published.split, client)?)
    } else {
        None
    };
    // What the change lets out goes to the stream at once; that nothing can be minted is the players' concern.
    let _ = app.sessions.look(&session, stage(&published));
    let playlist = rotated.map(|play| format!("/s/{play}/index.m3u8"));
    Ok(Json(Changed { status: app.sessions.status(&session)?, playlist }).into_response())
}

/// `POST /api/v1/sessions/{control}/claims`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    receipt: String,
    preimage: Preimage,
}

/// Restores credit that a server lost from its own signed receipt and the proof of payment; what was booked already is not booked again. Where
/// the title was removed it is credited all the same, and the answer is what everything else of that session gets.
pub async fn claim(
    State(app): State<App>,
    Path(control): Path<String>,
    From(client): From,
    Document(claim): Document<Claim>,
) -> Answer {
    let session = app.sessions.claimed(&control)?;
    let Claim { receipt, preimage } = claim;
    let (removed, split) = match app.library.published(session.video, Some(session.version)) {
        Err(library::Error::Missing(what)) => (Some(what), None),
        found => (None, Some(found?.split)),
    };
    app.sessions.claim(&session, split, &receipt, &preimage, client).await?;
    match removed {
        Some(what) => Err(left(&app, &session, what)?),
        None => Ok(Json(app.sessions.status(&session)?).into_response()),
    }
}

/// `DELETE /api/v1/sessions/{control}`
pub async fn end(
    State(app): State<App>,
    Path(control): Path<String>,
    From(client): From,
) -> Answer<StatusCode> {
    let (session, published) = opened(&app, SessionKind::Control, &control)?;
    app.paywall.limit_rate(client)?;
    app.sessions.end(&session, published.split, client)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a page says that opens its stream anew: a browser sends the header only where it connects again by itself.
#[derive(Deserialize)]
pub struct Since {
    last_event_id: Option<String>,
}

/// `GET /api/v1/sessions/{control}/invoices`: server-sent events.
pub async fn invoices(
    State(app): State<App>,
    Path(control): Path<String>,
    From(client): From,
    Query(since): Query<Since>,
    headers: HeaderMap,
) -> Answer {
    let (session, published) = opened(&app, SessionKind::Control, &control)?;
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last = last.or(since.last_event_id.as_deref());
    let (missed, follower) = app.sessions.follow(&session, stage(&published), last, client)?;
    let follow =
        Follow { app, session, published, missed: missed.into_iter(), follower, over: false };
    Ok(event_stream(stream::unfold(follow, |mut follow| async move {
        let numbered = follow.next().await?;
        Some((sse(&numbered), follow))
    })))
}

struct Follow {
    app: App,
    session: SessionToken,
    published: Published,
    missed: std::vec::IntoIter<Numbered>,
    follower: Follower,
    over: bool,
}

impl Follow {
    /// The next event; the end of the stream makes the wallet connect again and miss nothing.
    async fn next(&mut self) -> Option<Numbered> {
        if let Some(missed) = self.missed.next() {
            return Some(missed);
        }
        if self.over {
            return None;
        }
        loop {
            let followed = tokio::select! {
                followed = self.follower.next() => followed,
                () = tokio::time::sleep(self.app.sessions.ends_in(&self.session)) => {
                    return Some(self.end());
                }
            };
            match followed {
                Followed::Event(n, event) => return Some(self.app.sessions.number(n, event)),
                Followed::Rung => {
                    let (video, version) = (self.session.video, self.session.version);
                    // What was removed is not paid any more.
                    if self.app.library.published(video, Some(version)).is_err() {
                        return Some(self.end());
                    }
                    // Finds what was booked and tells it through the stream.
                    let _ = self.app.sessions.look(&self.session, stage(&self.published));
                }
                Followed::Lost => return None,
            }
        }
    }

    /// The last event.
    const fn end(&mut self) -> Numbered {
        self.over = true;
        Numbered { id: None, event: Event::End {} }
    }
}

fn sse(numbered: &Numbered) -> Sse {
    let mut event = Sse::default().event(numbered.event.name());
    if let Some(id) = &numbered.id {
        event = event.id(id);
    }
    let data = serde_json::to_string(&numbered.event).unwrap_or_default();
    event.data(data)
}

fn stage(published: &Published) -> Stage<'_> {
    Stage { media: &published.media, split: published.split }
}

/// The version that a play key's session is pinned to.
pub fn watched(app: &Shared, play: &str) -> Result<Published, Problem> {
    Ok(opened(app, SessionKind::Play, play)?.1)
}

/// The session of a key, and the version that it is pinned to; 410 where that was removed and credit is left.
fn opened(
    app: &Shared,
    kind: SessionKind,
    key: &str,
) -> Result<(SessionToken, Published), Problem> {
    let session = app.sessions.session(kind, key)?;
    match app.library.published(session.video, Some(session.version)) {
        Err(library::Error::Missing(what)) => Err(left(app, &session, what)?),
        found => Ok((session, found?)),
    }
}

/// What a session of a title that was removed is answered.
fn left(app: &Shared, session: &SessionToken, what: &'static str) -> Result<Problem, Problem> {
    let credit = app.sessions.status(session)?.credit_msat;
    Ok(if credit.is_zero() { Problem::missing(what) } else { Problem::gone(credit.get()) })
}
