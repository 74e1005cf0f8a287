//! Subtitles that a creator sends.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::App;
use super::error::{Answer, Problem};
use super::extract::{Caller, Path, Query, named};
use crate::domain::id::VideoId;
use crate::domain::subtitle::Language;
use crate::library::Error;
use crate::library::extras::SUBTITLES_BYTES_MAX;

/// `PUT /api/v1/videos/{id}/subtitles/{language}?name=`
#[derive(Deserialize)]
pub struct Named {
    name: Option<String>,
}

/// Takes a WebVTT or an SRT file as the body.
pub async fn put(
    State(app): State<App>,
    caller: Caller,
    Path((id, language)): Path<(String, String)>,
    Query(query): Query<Named>,
    body: Body,
) -> Answer<StatusCode> {
    let (id, language): (VideoId, Language) = (named(&id)?, tag(&language)?);
    let role = caller.known()?;
    // Looked at before the body: nobody sends megabytes for a title that is not there.
    app.library.own_video(id, role)?;
    let within = Duration::from_secs(app.options.document_seconds);
    let read = axum::body::to_bytes(body, SUBTITLES_BYTES_MAX);
    let read = tokio::time::timeout(within, read).await.map_err(|_| Problem::too_slow())?;
    let bytes = read.map_err(|_| Error::TooLarge { max: SUBTITLES_BYTES_MAX as u64 })?;
    app.library.put_subtitles(id, role, language, query.name.as_deref(), bytes).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `DELETE /api/v1/videos/{id}/subtitles/{language}`
pub async fn delete(
    State(app): State<App>,
    caller: Caller,
    Path((id, language)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let (id, language): (VideoId, Language) = (named(&id)?, tag(&language)?);
    app.library.delete_subtitles(id, caller.known()?, &language).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn tag(text: &str) -> Result<Language, Error> {
    text.parse().map_err(|_| Error::Invalid {
        field: "language",
        reason: "must be a language tag (BCP 47), such as en or pt-BR".to_owned(),
    })
}
