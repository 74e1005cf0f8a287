//! The real calls to destinations' services, over real sockets of this machine: what is refused, and that size and time are bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice::payout::outbound::{Answer, BODY_BYTES_MAX, Failure, Internet, Outbound};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use url::Url;

/// What a server does with each connection once it was asked.
#[derive(Clone, Copy)]
enum Manner {
    Says(&'static str),
    Endless,
    Silent,
    Drips,
}

/// A server on loopback; its port.
async fn serve(manner: Manner) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = [0; 4_096];
                let _ = stream.read(&mut asked).await;
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
                match manner {
                    Manner::Says(answer) => {
                        let _ = stream.write_all(answer.as_bytes()).await;
                    }
                    Manner::Endless => {
                        let _ = stream.write_all(head.as_bytes()).await;
                        while stream.write_all(&[b' '; 8_192]).await.is_ok() {}
                    }
                    Manner::Silent => std::future::pending().await,
                    Manner::Drips => {
                        let _ = stream.write_all(head.as_bytes()).await;
                        while stream.write_all(b" ").await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
            });
        }
    });
    port
}

fn calls(allow_loopback: bool) -> Outbound {
    Outbound::new(Arc::new(Internet), allow_loopback)
}

async fn get(outbound: &Outbound, url: &str) -> Result<Answer, Failure> {
    outbound.get(&Url::parse(url).unwrap()).await
}

#[tokio::test]
async fn loopback_is_called_where_the_configuration_says_so_and_only_then() {
    let port = serve(Manner::Says("HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}")).await;
    let answer = get(&calls(true), &format!("http://127.0.0.1:{port}/")).await.unwrap();
    assert_eq!(answer, Answer { status: 201, location: None, body: b"{}".to_vec() });
    let named = get(&calls(true), &format!("http://localhost:{port}/")).await;
    assert_eq!(named.unwrap().status, 201);
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://localhost:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://0x7f.1:{port}/"),
        "https://[::ffff:10.0.0.1]/".to_owned(),
        "https://100.64.0.1/".to_owned(),
        "http://1.1.1.1/".to_owned(),
    ] {
        let error = get(&calls(false), &url).await.unwrap_err();
        assert!(matches!(error, Failure::Refused(_)), "{url}: {error}");
    }
    let error = get(&calls(true), "https://10.0.0.1/").await.unwrap_err();
    assert!(matches!(error, Failure::Refused(_)), "loopback alone is allowed: {error}");
}

#[tokio::test]
async fn a_redirect_is_not_followed_without_a_check() {
    let to_private =
        "HTTP/1.1 302 Found\r\nlocation: https://10.0.0.1/\r\ncontent-length: 0\r\n\r\n";
    let port = serve(Manner::Says(to_private)).await;
    let error = get(&calls(true), &format!("http://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(error.to_string().contains("10.0.0.1"), "{error}");
    let circle = "HTTP/1.1 302 Found\r\nlocation: /again\r\ncontent-length: 0\r\n\r\n";
    let port = serve(Manner::Says(circle)).await;
    let error = get(&calls(true), &format!("http://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(error.to_string().contains("too many redirects"), "{error}");
}

#[tokio::test]
async fn an_endless_answer_is_left_at_its_bound() {
    let port = serve(Manner::Endless).await;
    let error = get(&calls(true), &format!("http://127.0.0.1:{port}/")).await.unwrap_err();
    assert!(error.to_string().contains(&BODY_BYTES_MAX.to_string()), "{error}");
}

#[tokio::test]
async fn a_silent_or_dripping_server_is_left_in_time() {
    for manner in [Manner::Silent, Manner::Drips] {
        let port = serve(manner).await;
        let outbound = Outbound { within: Duration::from_millis(200), ..calls(true) };
        let begun = Instant::now();
        let error = get(&outbound, &format!("http://127.0.0.1:{port}/")).await.unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn plain_http_in_the_place_of_tls_is_a_failure() {
    let port = serve(Manner::Says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")).await;
    assert!(get(&calls(true), &format!("https://127.0.0.1:{port}/")).await.is_err());
}
