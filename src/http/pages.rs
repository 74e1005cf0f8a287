//! The pages, built from `web/` and carried in the program.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use super::error::{Answer, Problem};
use super::extract::{Path, named};
use crate::domain::id::VideoId;

/// What Vite wrote; a build without it still works and then says how to make it.
#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Dist;

/// Nothing is loaded from elsewhere and nothing runs inline. `blob:` is how Media Source Extensions hand media to the player.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; media-src 'self' blob:; img-src 'self' data:; worker-src 'self' blob:; \
     object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// `GET /watch/{video}`: the page is the same for all; it asks the API for the title, and says in words what it is told.
pub async fn watch(Path(video): Path<String>) -> Answer {
    named::<VideoId>(&video)?;
    let page = Dist::get("index.html").ok_or_else(Problem::no_pages)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from(page.data.into_owned())).into_response())
}

/// `GET /assets/{path}`: names carry a hash of the content, so they are kept for ever.
pub async fn asset(Path(path): Path<String>) -> Answer<Response> {
    let asset = Dist::get(&format!("assets/{path}")).ok_or_else(|| Problem::missing("asset"))?;
    let kind = match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    Ok((headers, Body::from(asset.data.into_owned())).into_response())
}
