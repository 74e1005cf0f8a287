//! Titles and their sources.

use std::io;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::Event as Sse;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::error::{Answer, Problem};
use super::extract::{Caller, Document, Path, Query, named};
use super::extras::{Links, links};
use super::{App, Shared, event_stream};
use crate::domain::id::{CreatorId, Version, VideoId};
use crate::domain::video::{Video, VideoState};
use crate::library::{EditVideo, NewVideo, PAGE_MAX};

/// A title on the wire.
#[derive(Serialize)]
pub struct Shown {
    id: VideoId,
    creator: Author,
    title: String,
    description: String,
    msat_per_second: u64,
    preview_seconds: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    version: Version,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    segments: Option<u32>,
    created_ms: u64,
    /// What lies around a published film; not in lists.
    #[serde(flatten)]
    around: Option<Links>,
}

#[derive(Serialize)]
struct Author {
    id: CreatorId,
    name: String,
}

fn shown(app: &Shared, video: Video) -> Result<Shown, Problem> {
    let name = app.library.creator(video.creator).map(|creator| creator.name).unwrap_or_default();
    let ready = video.state == VideoState::Ready;
    let media = if ready { app.library.published(video.id, None).ok() } else { None };
    Ok(Shown {
        id: video.id,
        creator: Author { id: video.creator, name },
        state: video.state.word(),
        reason: match video.state {
            VideoState::Failed { reason } => Some(reason),
            _ => None,
        },
        title: video.title,
        description: video.description,
        msat_per_second: video.price.get(),
        preview_seconds: video.preview_seconds,
        version: video.version,
        duration_ms: media.as_ref().map(|of| of.media.timeline.duration().millis()),
        segments: media.as_ref().map(|of| of.media.timeline.segments()),
        created_ms: video.created_ms,
        around: None,
    })
}

/// The same with what lies around it.
async fn shown_whole(app: &Shared, video: Video) -> Answer<Json<Shown>> {
    let ready = video.state == VideoState::Ready;
    let published = if ready { app.library.published(video.id, None).ok() } else { None };
    let mut shown = shown(app, video)?;
    if let Some(published) = published {
        shown.around = Some(links(app, &published).await?);
    }
    Ok(Json(shown))
}

/// `POST /api/v1/videos`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    msat_per_second: u64,
    #[serde(default)]
    preview_seconds: u32,
}

/// A new draft.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Document(create): Document<Create>,
) -> Answer {
    let new = NewVideo {
        title: create.title,
        description: create.description,
        msat_per_second: create.msat_per_second,
        preview_seconds: create.preview_seconds,
    };
    let video = app.library.create_video(caller.creator()?, &new)?;
    Ok((StatusCode::CREATED, Json(shown(&app, video)?)).into_response())
}

/// `GET /api/v1/videos/{id}`: anyone may see a published title.
pub async fn show(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Json<Shown>> {
    let video = app.library.video(named(&id)?, caller.0)?;
    shown_whole(&app, video).await
}

/// `GET /api/v1/videos?cursor=`
#[derive(Deserialize)]
pub struct Page {
    cursor: Option<VideoId>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Listed {
    videos: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<VideoId>,
}

/// A creator's titles, oldest first; the operator sees all.
pub async fn list(State(app): State<App>, caller: Caller, Query(page): Query<Page>) -> Answer {
    let limit = page.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX);
    let videos = app.library.videos(caller.known()?, page.cursor, limit)?;
    let cursor = if videos.len() == limit { videos.last().map(|video| video.id) } else { None };
    let videos = videos.into_iter().map(|video| shown(&app, video)).collect::<Result<_, _>>()?;
    Ok(Json(Listed { videos, cursor }).into_response())
}

/// `PATCH /api/v1/videos/{id}`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    title: Option<String>,
    description: Option<String>,
    msat_per_second: Option<u64>,
    preview_seconds: Option<u32>,
    subtitles_free: Option<bool>,
}

/// Changes a title.
pub async fn edit(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Document(edit): Document<Edit>,
) -> Answer<Json<Shown>> {
    let (id, role) = (named(&id)?, caller.known()?);
    let subtitles_free = edit.subtitles_free;
    let edit = EditVideo {
        title: edit.title,
        description: edit.description,
        msat_per_second: edit.msat_per_second,
        preview_seconds: edit.preview_seconds,
    };
    let video = app.library.edit_video(id, role, edit)?;
    if let Some(free) = subtitles_free {
        app.library.free_subtitles(id, role, free).await?;
    }
    shown_whole(&app, video).await
}

/// `DELETE /api/v1/videos/{id}`
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    app.library.delete_video(named(&id)?, caller.known()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `PUT /api/v1/videos/{id}/source`: the file as the body.
pub async fn source(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    // A sender that pauses for long holds a title and a connection: it may begin again.
    let pause = Duration::from_secs(app.options.stall_seconds);
    let stream = stream::unfold(body.into_data_stream(), move |mut body| async move {
        let piece = match tokio::time::timeout(pause, body.next()).await {
            Ok(piece) => piece?.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((piece, body))
    });
    let stream = Box::pin(stream);
    let video = app.library.receive(named(&id)?, caller.known()?, announced, stream).await?;
    Ok((StatusCode::ACCEPTED, Json(shown(&app, video)?)).into_response())
}

/// `GET /api/v1/videos/{id}/events`: state and progress as server-sent events, from the present one on.
pub async fn events(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<Response> {
    let mut progress = app.library.progress(named(&id)?, caller.known()?)?;
    progress.mark_changed();
    Ok(event_stream(stream::unfold(progress, |mut progress| async move {
        // The sender is gone with the title: so is the stream.
        progress.changed().await.ok()?;
        let data = serde_json::to_string(&*progress.borrow_and_update()).unwrap_or_default();
        Some((Sse::default().event("progress").data(data), progress))
    })))
}
