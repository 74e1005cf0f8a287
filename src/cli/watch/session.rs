//! The server's side of watching, over HTTP: the title, the session, its playlists and segments, its events. Every answer has a bound, and
//! only addresses of the one server are asked.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Order;
use crate::domain::id::{NodeId, PaymentHash, SegmentNumber, VideoId};
use crate::lightning::Network;

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What is no segment and no stream is answered by then.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// A segment is held for up to 25 s, and then has to come down the line.
const SEGMENT_WITHIN: Duration = Duration::from_secs(90);
/// The server sends a heartbeat more often; a stream that is silent for so long is dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const JSON_BYTES_MAX: usize = 256 << 10;
/// Four seconds at 130 Mbit/s.
const SEGMENT_BYTES_MAX: usize = 64 << 20;
/// Names and keys in paths are shorter.
const KEY_BYTES_MAX: usize = 1_024;

/// A title as the server describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Title {
    #[serde(default)]
    pub(super) title: String,
}

/// A session's terms.
#[derive(Deserialize)]
pub(super) struct Opened {
    playlist: String,
    control: String,
    pub(super) payee: NodeId,
    pub(super) network: Network,
    pub(super) msat_per_second: u64,
    pub(super) granularity_msat: u64,
    pub(super) first_paid_segment: Option<SegmentNumber>,
}

/// One server, and the session on it.
#[derive(Clone)]
pub(super) struct Remote {
    http: Client,
    base: Url,
    play: String,
    control: String,
}

/// What became of a request for media.
pub(super) enum Media {
    /// Here it is.
    Bytes(Bytes),
    /// It has to be paid first.
    Unpaid,
    /// Not now, for this reason.
    Failed(String),
}

/// Where a film is: the server, and the title there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) base: Url,
    pub(super) video: VideoId,
}

impl Place {
    /// From the address of a title's page or playlist.
    pub(super) fn parse(url: &str, insecure: bool) -> anyhow::Result<Self> {
        let url = Url::parse(url).map_err(|_| {
            anyhow!("`{url}` is no address: give the one of the film's page, https://host/watch/…")
        })?;
        let host = url.host_str().context("the address names no server")?;
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let loopback = ip.map_or(host == "localhost", |ip| ip.is_loopback());
        match url.scheme() {
            "https" => {}
            "http" if loopback || insecure => {}
            "http" => bail!(
                "plain http would show the session to everybody on the way: use https, or accept that with --insecure"
            ),
            _ => bail!("the address must begin with https://"),
        }
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "the address holds a password"
        );
        let parts: Vec<_> = url.path_segments().into_iter().flatten().collect();
        let video = match parts.as_slice() {
            ["watch", video] | ["watch", video, ""] | ["hls", video, "index.m3u8"] => video.parse(),
            _ => bail!(
                "this is no film's address: give /watch/ID or /hls/ID/index.m3u8, as the server's page has it"
            ),
        };
        let video = video.map_err(|_| anyhow!("the address names no film: its id is malformed"))?;
        let mut base = url;
        base.set_path("/");
        base.set_query(None);
        base.set_fragment(None);
        Ok(Self { base, video })
    }
}

impl Remote {
    /// Asks for the title, and opens a session for it.
    pub(super) async fn open(
        place: &Place,
        order: &Order,
    ) -> anyhow::Result<(Self, Title, Opened)> {
        let mut http = Client::builder()
            .connect_timeout(CONNECT_WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false);
        if place.base.scheme() == "http" {
            // A proxy would see the session's keys.
            http = http.no_proxy();
        }
        let (play, control) = (String::new(), String::new());
        let mut remote = Self { http: http.build()?, base: place.base.clone(), play, control };
        let title = remote.request(Method::GET, &format!("/api/v1/videos/{}", place.video))?;
        let title: Title = serde_json::from_slice(&remote.json(title).await?)
            .context("the server describes the film in an unknown way")?;
        let wish = json!({
            "video": place.video,
            "ahead": order.ahead,
            "bundle": order.bundle,
            "hold_ms": order.hold_ms.min(HOLD_MS_MAX),
        });
        let opened = remote.request(Method::POST, "/api/v1/sessions")?.json(&wish);
        let opened: Opened = serde_json::from_slice(&remote.json(opened).await?)
            .context("the server opens its sessions in an unknown way")?;
        let play = opened.playlist.strip_prefix("/s/");
        remote.play = key(play.and_then(|rest| rest.strip_suffix("/index.m3u8")))?;
        remote.control = key(opened.control.strip_prefix("/api/v1/sessions/"))?;
        Ok((remote, title, opened))
    }

    /// A path on the server; nothing that the server says can lead elsewhere.
    fn request(&self, method: Method, path: &str) -> anyhow::Result<RequestBuilder> {
        let mut url = self.base.clone();
        url.set_path(path);
        Ok(self.http.request(method, url))
    }

    fn control(&self, method: Method, rest: &str) -> anyhow::Result<RequestBuilder> {
        self.request(method, &format!("/api/v1/sessions/{}{rest}", self.control))
    }

    async fn json(&self, request: RequestBuilder) -> anyhow::Result<Bytes> {
        let answer = request.timeout(ANSWER_WITHIN).send().await.map_err(|error| {
            if error.is_connect() {
                anyhow!("no server answers at {}: is it up, and the address right?", self.base)
            } else {
                error.without_url().into()
            }
        })?;
        let status = answer.status();
        let body = bounded(answer, JSON_BYTES_MAX).await?;
        if status.is_success() {
            return Ok(body);
        }
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem.get("detail").and_then(Value::as_str).map(plain);
        bail!("{} ({})", detail.as_deref().unwrap_or("the server says no"), status.as_u16())
    }

    /// A playlist of the session: the multivariant one, or a rendition's.
    pub(super) async fn playlist(&self, rendition: Option<&str>) -> anyhow::Result<String> {
        let path = match rendition {
            None => format!("/s/{}/index.m3u8", self.play),
            Some(name) => format!("/s/{}/{name}/index.m3u8", self.play),
        };
        let answer = self.request(Method::GET, &path)?.timeout(ANSWER_WITHIN).send().await;
        let answer = answer.map_err(reqwest::Error::without_url)?;
        ensure!(answer.status() == StatusCode::OK, "the server gives no playlist");
        let bytes = bounded(answer, super::playlist::PLAYLIST_BYTES_MAX).await?;
        String::from_utf8(bytes.to_vec()).context("the server's playlist is no text")
    }

    /// An init segment or a segment. The server holds an unpaid one for a while.
    pub(super) async fn media(&self, rendition: &str, file: &str) -> Media {
        let path = format!("/s/{}/{rendition}/{file}", self.play);
        let answer = match self.request(Method::GET, &path) {
            Ok(request) => request.timeout(SEGMENT_WITHIN).send().await,
            Err(error) => return Media::Failed(error.to_string()),
        };
        match answer {
            Ok(answer) if answer.status() == StatusCode::OK => {
                match bounded(answer, SEGMENT_BYTES_MAX).await {
                    Ok(bytes) => Media::Bytes(bytes),
                    Err(error) => Media::Failed(error.to_string()),
                }
            }
            Ok(answer) if answer.status() == StatusCode::PAYMENT_REQUIRED => Media::Unpaid,
            Ok(answer) => Media::Failed(format!("the server answers {}", answer.status().as_u16())),
            Err(error) => Media::Failed(error.without_url().to_string()),
        }
    }

    /// The stream of events, after the last id that was seen. Nothing where the session is no more.
    pub(super) async fn events(&self, last: Option<&str>) -> anyhow::Result<Option<Response>> {
        let mut request = self.control(Method::GET, "/invoices")?;
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = tokio::time::timeout(ANSWER_WITHIN, request.send()).await;
        let answer = answer.context("the server does not answer")?;
        let answer = answer.map_err(reqwest::Error::without_url)?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            status => bail!("the server answers {}", status.as_u16()),
        }
    }

    /// The next bytes of a stream of events; nothing at its end.
    pub(super) async fn chunk(stream: &mut Response) -> Option<Bytes> {
        tokio::time::timeout(SILENCE_MAX, stream.chunk()).await.ok()?.ok()?
    }

    /// Says that a payment failed for good, so that a fresh invoice takes the place of its invoice.
    ///
    /// # Errors
    /// Where the server did not hear it, or asks for another try. A plain no is an answer.
    pub(super) async fn report_failed(&self, hash: &PaymentHash) -> anyhow::Result<()> {
        let patch = self.control(Method::PATCH, "")?.json(&json!({ "failed": hash }));
        let answer =
            patch.timeout(ANSWER_WITHIN).send().await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        let later = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        ensure!(!later && !status.is_server_error(), "the server answers {}", status.as_u16());
        Ok(())
    }

    /// Ends the session: no further invoice.
    pub(super) async fn end(&self) -> anyhow::Result<()> {
        self.json(self.control(Method::DELETE, "")?).await.map(|_| ())
    }
}

/// The longest hold that the server grants.
const HOLD_MS_MAX: u64 = 25_000;

/// A key as it stands in a path, of such signs that it cannot lead to another.
fn key(text: Option<&str>) -> anyhow::Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=.".contains(&byte);
    let good = |text: &&str| {
        !text.is_empty()
            && text.len() <= KEY_BYTES_MAX
            && text.bytes().all(plain)
            && text.bytes().any(|byte| byte != b'.')
    };
    text.filter(good).map(str::to_owned).context("the server names its session in an unknown way")
}

/// What a server says, on one line, short, and without signs that a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(300).collect()
}

/// The whole body, unless it is larger than it may be.
async fn bounded(answer: Response, max: usize) -> anyhow::Result<Bytes> {
    let announced = answer.content_length().unwrap_or(0);
    ensure!(announced <= max as u64, "the server's answer is too large");
    let mut body = answer.bytes_stream();
    let mut all = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(reqwest::Error::without_url)?;
        ensure!(all.len().saturating_add(chunk.len()) <= max, "the server's answer is too large");
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// Whether bytes are the boxes of a segment (ISO/IEC 14496-12): `moof` and then `mdat`, nothing cut off.
pub(super) fn is_segment(bytes: &[u8]) -> bool {
    boxes(bytes).is_some_and(|kinds| {
        let at = |kind: &[u8; 4]| kinds.iter().position(|of| of == kind);
        matches!((at(b"moof"), at(b"mdat")), (Some(moof), Some(mdat)) if moof < mdat)
    })
}

/// Whether bytes are the boxes of an init segment: `ftyp` and `moov`.
pub(super) fn is_init(bytes: &[u8]) -> bool {
    boxes(bytes).is_some_and(|kinds| kinds.contains(b"ftyp") && kinds.contains(b"moov"))
}

fn boxes(mut bytes: &[u8]) -> Option<Vec<[u8; 4]>> {
    /// A segment has a handful.
    const BOXES_MAX: usize = 64;
    let mut kinds = Vec::new();
    while !bytes.is_empty() {
        let (size, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, _) = rest.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_be_bytes(*size)).ok().filter(|size| *size >= 8)?;
        kinds.push(*kind);
        bytes = bytes.get(size..)?;
        if kinds.len() > BOXES_MAX {
            return None;
        }
    }
    Some(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_films_address_is_read_and_others_are_refused_in_words() {
        let id = "018f0000000070008000000000000001";
        for good in [
            format!("http://127.0.0.1:8402/watch/{id}"),
            format!("https://films.example/watch/{id}#wallet=x"),
            format!("https://films.example/hls/{id}/index.m3u8"),
            format!("http://[::1]:1/watch/{id}"),
        ] {
            assert_eq!(Place::parse(&good, false).unwrap().video.to_string(), id, "{good}");
        }
        assert!(Place::parse(&format!("http://films.example/watch/{id}"), true).is_ok());
        for bad in [
            format!("http://films.example/watch/{id}"),
            format!("ftp://films.example/watch/{id}"),
            format!("https://films.example/{id}"),
            format!("https://a:b@films.example/watch/{id}"),
            "https://films.example/watch/..".to_owned(),
            "film".to_owned(),
        ] {
            assert!(Place::parse(&bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_cannot_lead_to_another_path() {
        assert!(key(Some("AbC-_9.x")).is_ok());
        for bad in ["", "..", ".", "a/b", "a?b", "a%2fb", "a#b"] {
            assert!(key(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown_of_what_a_server_says() {
        assert_eq!(plain("a \u{1b}[31mfilm\r\n\u{7}"), "a [31mfilm");
        assert_eq!(plain(&"x".repeat(10_000)).len(), 300);
    }

    #[test]
    fn only_whole_boxes_are_a_segment() {
        let of = |kind: &str, len: u32| {
            let mut bytes = (len + 8).to_be_bytes().to_vec();
            bytes.extend(kind.bytes());
            bytes.resize(bytes.len() + len as usize, 0);
            bytes
        };
        let segment = [of("moof", 10), of("mdat", 100)].concat();
        assert!(is_segment(&segment));
        assert!(!is_segment(&segment[..segment.len() - 1]), "cut off");
        assert!(!is_segment(&[of("mdat", 3), of("moof", 3)].concat()));
        assert!(!is_segment(b""));
        assert!(!is_segment(b"<html>no</html>"));
        assert!(!is_segment(&of("mdat", 0).repeat(10_000)));
        assert!(is_init(&[of("ftyp", 4), of("moov", 9)].concat()));
        assert!(!is_init(&segment));
    }
}
