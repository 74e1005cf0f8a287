use super::*;
use crate::media::fixture;

#[tokio::test]
async fn lines_are_bounded() {
    let mut from: &[u8] = b"{}\nlonger than that\n";
    assert_eq!(line(&mut from, 8).await.unwrap().unwrap(), b"{}");
    assert!(matches!(line(&mut from, 8).await, Err(Error::Worker(_))));
    let mut from: &[u8] = b"broken off";
    assert!(matches!(line(&mut from, 80).await, Err(Error::Worker(_))));
    let mut from: &[u8] = b"";
    assert!(line(&mut from, 80).await.unwrap().is_none());
}

#[tokio::test]
async fn a_flood_on_standard_error_is_clipped() {
    let mut flood = vec![b'x'; 100_000];
    flood.extend_from_slice(b"\n\x1b[31mred\nend");
    let mut from = BufReader::new(flood.as_slice());
    assert_eq!(clipped(&mut from, 10).await.unwrap(), "xxxxxxxxxx");
    assert_eq!(clipped(&mut from, 10).await.unwrap(), "[31mred");
    assert_eq!(clipped(&mut from, 10).await.unwrap(), "end");
    assert_eq!(clipped(&mut from, 10).await, None);
}

#[tokio::test]
async fn a_child_that_is_no_worker_fails_by_name() {
    let run = |exe: &str| {
        let worker = Worker::at(PathBuf::from(exe), Options::default());
        async move { worker.decode(PathBuf::from("/dev/null")).await.unwrap_err().to_string() }
    };
    assert_eq!(run("/bin/false").await, "the media worker failed: exit code 1");
    assert!(run("/nonexistent").await.starts_with("starting the media worker"));
    assert!(run("/bin/echo").await.contains("its words make no sense"));
}

/// Makes a piece of the clip with a program in the worker's place, which finds the files of an honest one. `$out` is their directory.
async fn made(
    script: &str,
    change: impl FnOnce(&mut Options),
    sink: &mut dyn Sink,
    cancel: CancellationToken,
) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let (home, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clip = fixture::clip();
    clip.write(output.path());
    let (mut order, _) = clip.of(output.path(), "240p");
    change(&mut order.options);
    let program = home.path().join("worker");
    let out = output.path().display();
    std::fs::write(&program, format!("#!/bin/sh\nout={out}\nread task\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let worker = Worker::at(program, Options::default());
    let done = tokio::time::timeout(Duration::from_secs(60), worker.work(order, sink, cancel));
    done.await.expect("it is ended")
}

/// Takes a while for each telling, and counts the finished ones.
#[derive(Default)]
struct Slow {
    begun: CancellationToken,
    finished: usize,
}

#[async_trait]
impl Sink for Slow {
    async fn told(&mut self, _: Told) -> Result<(), Error> {
        self.begun.cancel();
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.finished += 1;
        Ok(())
    }
}

#[tokio::test]
async fn a_child_that_lives_for_ever_or_fills_the_disk_untold_is_ended_with_a_reason() {
    let alive = "while :; do echo '\"alive\"'; sleep 0.1; done";
    let reason = async |script: &str, change: fn(&mut Options)| {
        let made = made(script, change, &mut Slow::default(), CancellationToken::new()).await;
        match made {
            Err(Error::Source(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    let told = reason(alive, |options| options.piece_max_seconds = 1).await;
    assert!(told.contains("longer than the 1 seconds"), "{told}");
    let fills = format!("head -c 9000000 /dev/zero > $out/hidden; {alive}");
    let told = reason(&fills, |options| options.output_max_bytes = 8_000_000).await;
    assert!(told.contains("larger than is allowed"), "{told}");
}

#[tokio::test]
async fn a_telling_that_began_is_finished_and_the_next_one_does_not_begin() {
    let init = fixture::clip().files["240p-init.mp4"].len();
    let told = Told::Init {
        rendition: "240p".parse().unwrap(),
        file: "240p-init.mp4".to_owned(),
        bytes: init as u64,
    };
    let line = serde_json::to_string(&Line::Told(told)).unwrap();
    let progress = Line::Told(Told::Progress { permille: 1 });
    let progress = serde_json::to_string(&progress).unwrap();
    let script = format!("echo '{line}'; echo '{progress}'; exec sleep 600");
    let mut sink = Slow::default();
    let cancel = sink.begun.clone();
    let ended = made(&script, |_| (), &mut sink, cancel).await;
    assert!(matches!(ended, Err(Error::Cancelled)), "{ended:?}");
    assert_eq!(sink.finished, 1);
}

#[tokio::test]
async fn what_a_child_gives_as_a_reason_is_cut_and_cleaned() {
    let reason = format!("\u{1b}[31m\n{}", "x".repeat(100_000));
    let line = serde_json::to_string(&Line::Told(Told::Failed { reason })).unwrap();
    let script = format!("cat << 'END'\n{line}\nEND");
    let mut sink = Slow::default();
    let failed = made(&script, |_| (), &mut sink, CancellationToken::new()).await;
    assert_eq!(failed.unwrap_err().to_string(), format!("[31m{}", "x".repeat(296)));
    let script = r#"echo '{"\u001b\u0007y":1}'"#;
    let failed = made(script, |_| (), &mut sink, CancellationToken::new()).await;
    let failed = failed.unwrap_err().to_string();
    assert!(failed.contains("make no sense") && !failed.contains(char::is_control));
}

#[test]
fn a_limit_on_processor_time_is_the_sources_fault_and_a_crash_is_not() {
    let status = |raw| ended(ExitStatus::from_raw(raw), &VecDeque::new());
    assert!(matches!(status(Signal::SIGXCPU as i32), Error::Source(_)));
    let crashed = status(Signal::SIGSEGV as i32);
    assert_eq!(crashed.to_string(), "the media worker failed: ended by SIGSEGV");
}
