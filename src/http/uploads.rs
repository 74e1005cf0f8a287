//! Sources by tus 1.0.0 (<https://tus.io/protocols/resumable-upload>): core, creation, creation-with-upload, termination, checksum, expiration.
//!
//! Pages of other origins upload nothing: there is no CORS here.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::stream::BoxStream;
use futures::{StreamExt as _, stream};

use super::error::{Answer, Problem};
use super::extract::{Caller, Path, named};
use super::{App, Shared};
use crate::domain::id::{UploadId, VideoId};
use crate::library::NewVideo;
use crate::library::upload::{Said, Status};
use crate::store::Role;

mod words;

use words::Metadata;

/// The only version there is.
const VERSION: HeaderValue = HeaderValue::from_static("1.0.0");
const EXTENSIONS: HeaderValue =
    HeaderValue::from_static("creation,creation-with-upload,termination,checksum,expiration");
const ALGORITHMS: HeaderValue = HeaderValue::from_static("sha1,sha256");
const RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const LENGTH: HeaderName = HeaderName::from_static("upload-length");
const EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const METADATA: HeaderName = HeaderName::from_static("upload-metadata");
/// What a request's bytes are called.
const BYTES: &str = "application/offset+octet-stream";

/// Asks each request for the version that it speaks, and says ours in each answer.
pub async fn versioned(request: Request, next: Next) -> Response {
    let speaks = request.headers().get(&RESUMABLE) == Some(&VERSION);
    let mut answer = if speaks || request.method() == Method::OPTIONS {
        next.run(request).await
    } else {
        let mut refused = Problem::tus_version().into_response();
        refused.headers_mut().insert("tus-version", VERSION);
        refused
    };
    answer.headers_mut().insert(RESUMABLE, VERSION);
    answer
}

/// `OPTIONS`: what this server can.
pub async fn options(State(app): State<App>) -> Response {
    let headers = [
        (HeaderName::from_static("tus-version"), VERSION),
        (HeaderName::from_static("tus-extension"), EXTENSIONS),
        (HeaderName::from_static("tus-checksum-algorithm"), ALGORITHMS),
        (HeaderName::from_static("tus-max-size"), app.library.source_bytes_max().into()),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// `POST /api/v1/uploads`: an upload for a draft, which it makes where none is named; its first bytes may be with it.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let role = caller.known()?;
    let length = words::length(&headers)?;
    let text = words::metadata_text(&headers)?;
    let metadata = Metadata::parse(text)?;
    let checksum = words::checksum(&headers)?;
    let announced = words::content_length(&headers)?;
    let carries = words::content_type(&headers) == Some(BYTES);
    if !carries && announced.is_some_and(|bytes| bytes > 0) {
        return Err(Problem::tus_type());
    }
    let status = make(&app, &caller, role, length, text, metadata).await?;
    let mut offset = status.offset;
    if carries && announced != Some(0) {
        let said = Said { offset: 0, announced, checksum };
        let taken = app.library.append(status.id, role, said, arriving(&app, body)).await;
        // The upload is there: a client that hears of an error alone would make another.
        offset = match taken {
            Ok(status) => status.offset,
            Err(error) => {
                let (id, problem) = (status.id, Problem::from(error));
                tracing::debug!(upload = %id, ?problem, "an upload began without its first bytes");
                app.library.upload(id, role)?.offset
            }
        };
    }
    let location = format!("/api/v1/uploads/{}", status.id);
    let mut answer = (StatusCode::CREATED, [(header::LOCATION, location)]).into_response();
    let headers = answer.headers_mut();
    headers.insert(OFFSET, offset.into());
    if offset < length {
        expires(headers, &status);
    }
    Ok(answer)
}

async fn make(
    app: &Shared,
    caller: &Caller,
    role: Role,
    length: u64,
    text: &str,
    metadata: Metadata,
) -> Result<Status, Problem> {
    if let Some(video) = metadata.video {
        return Ok(app.library.create_upload(video, role, length, text).await?);
    }
    let new = NewVideo {
        title: metadata.title.ok_or_else(|| Problem::malformed(words::NO_TITLE))?,
        description: metadata.description,
        msat_per_second: metadata.msat_per_second,
        preview_seconds: metadata.preview_seconds,
    };
    let video = app.library.create_video(caller.creator()?, &new)?;
    let made = app.library.create_upload(video.id, role, length, text).await;
    if made.is_err()
        && let Err(error) = app.library.delete_video(video.id, role).await
    {
        // A draft without a source harms nobody.
        tracing::warn!(video = %video.id, %error, "a draft was left behind");
    }
    Ok(made?)
}

/// `HEAD /api/v1/uploads/{id}`: where to go on.
pub async fn head(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Answer {
    let status = app.library.upload(named(&id)?, caller.known()?)?;
    let mut answer = told(StatusCode::OK, Some(&status));
    if let Ok(metadata) = HeaderValue::from_str(&status.metadata)
        && !status.metadata.is_empty()
    {
        answer.headers_mut().insert(METADATA, metadata);
    }
    Ok(answer)
}

/// `PATCH /api/v1/uploads/{id}`: bytes from an offset on.
pub async fn patch(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    append(&app, &caller, named(&id)?, &headers, body).await
}

async fn append(
    app: &Shared,
    caller: &Caller,
    id: UploadId,
    headers: &HeaderMap,
    body: Body,
) -> Answer {
    let role = caller.known()?;
    if words::content_type(headers) != Some(BYTES) {
        return Err(Problem::tus_type());
    }
    let said = Said {
        offset: words::offset(headers)?,
        announced: words::content_length(headers)?,
        checksum: words::checksum(headers)?,
    };
    let status = app.library.append(id, role, said, arriving(app, body)).await?;
    Ok(told(StatusCode::NO_CONTENT, Some(&status)))
}

/// `DELETE /api/v1/uploads/{id}`: ends it.
pub async fn end(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
) -> Answer<StatusCode> {
    app.library.end_upload(named(&id)?, caller.known()?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/uploads/{id}` with `X-HTTP-Method-Override`, for clients that can send nothing else.
pub async fn instead(
    state: State<App>,
    caller: Caller,
    id: Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    let method = headers.get("x-http-method-override").map(HeaderValue::as_bytes);
    match method {
        Some(b"PATCH") => patch(state, caller, id, headers, body).await,
        Some(b"DELETE") => end(state, caller, id).await.map(IntoResponse::into_response),
        Some(b"HEAD") => head(state, caller, id).await,
        _ => Err(super::error::no_method().await),
    }
}

/// `HEAD /api/v1/videos/{id}/source`: how much is there.
pub async fn source_head(State(app): State<App>, caller: Caller, Path(id): Path<String>) -> Answer {
    let status = app.library.upload_of(named(&id)?, caller.known()?)?;
    Ok(told(StatusCode::OK, status.as_ref()))
}

/// `PUT /api/v1/videos/{id}/source`: the file as the body, or with `Content-Range` a part of it; whether it is whole.
pub async fn put(
    app: &Shared,
    caller: &Caller,
    id: VideoId,
    headers: &HeaderMap,
    body: Body,
) -> Result<Result<(), Response>, Problem> {
    let role = caller.known()?;
    let announced = words::content_length(headers)?;
    let range = words::content_range(headers)?;
    let (length, said) = match range {
        None => (announced, Said { announced, ..Said::default() }),
        Some(range) if announced.is_some_and(|bytes| bytes != range.bytes) => {
            return Err(Problem::malformed("Content-Length and Content-Range do not agree."));
        }
        Some(range) => {
            let announced = Some(range.bytes);
            (Some(range.total), Said { offset: range.from, announced, checksum: None })
        }
    };
    let taken = app.library.receive(id, role, length, said, arriving(app, body)).await;
    let status = taken?;
    let whole = status.length == Some(status.offset);
    Ok(if whole { Ok(()) } else { Err(told(StatusCode::NO_CONTENT, Some(&status))) })
}

/// How far an upload has come; one that was never begun is at 0.
fn told(code: StatusCode, status: Option<&Status>) -> Response {
    let mut answer = code.into_response();
    let headers = answer.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(OFFSET, status.map_or(0, |status| status.offset).into());
    if let Some(length) = status.and_then(|status| status.length) {
        headers.insert(LENGTH, length.into());
    }
    if let Some(status) = status {
        expires(headers, status);
    }
    answer
}

fn expires(headers: &mut HeaderMap, status: &Status) {
    let at = status.expires_ms.map(Duration::from_millis);
    let at = at.and_then(|at| std::time::UNIX_EPOCH.checked_add(at)).filter(|at| {
        // What the format can say ends with the year 9999.
        at.duration_since(std::time::UNIX_EPOCH).is_ok_and(|of| of.as_secs() < 253_402_300_800)
    });
    if let Some(value) = at.and_then(|at| HeaderValue::from_str(&httpdate::fmt_http_date(at)).ok())
    {
        headers.insert(EXPIRES, value);
    }
}

/// A body, piece by piece. A sender that pauses for long holds an upload and a connection: it may go on later.
fn arriving(app: &Shared, body: Body) -> BoxStream<'static, io::Result<Bytes>> {
    let pause = Duration::from_secs(app.options.stall_seconds);
    let pieces = stream::unfold(body.into_data_stream(), move |mut body| async move {
        let piece = match tokio::time::timeout(pause, body.next()).await {
            Ok(piece) => piece?.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((piece, body))
    });
    pieces.boxed()
}
