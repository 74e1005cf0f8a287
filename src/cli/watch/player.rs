//! The player: one of three that are known by name, or any command.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::receipt::End;

/// Where the address stands in a command of the viewer's own.
const PLACE: &str = "{url}";
/// A player that is asked to end does so within this.
const END_WITHIN: Duration = Duration::from_secs(3);

/// A player that was started; it ends with this value.
pub(super) struct Player {
    name: String,
    child: Child,
}

impl Player {
    /// Starts it on an address.
    pub(super) fn start(text: &str, url: &str) -> anyhow::Result<Self> {
        let words = command(text, url)?;
        let (program, arguments) = words.split_first().context("--player names no command")?;
        let quiet = known(text).is_some();
        let output = || if quiet { Stdio::null() } else { Stdio::inherit() };
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // Standard output is the receipt's.
            .stdout(Stdio::null())
            .stderr(output())
            .kill_on_drop(true)
            // What a command of the viewer's own starts in turn ends with it.
            .process_group(0)
            .spawn()
            .map_err(|error| anyhow!("{program} cannot be started ({error}): is it installed?"))?;
        Ok(Self { name: program.clone(), child })
    }

    /// Waits for its end.
    pub(super) async fn ended(mut self) -> End {
        match self.child.wait().await {
            Ok(status) if status.success() => End::Film,
            Ok(status) => End::Player(format!("{} ended: {status}", self.name)),
            Err(error) => End::Player(format!("{} cannot be waited for: {error}", self.name)),
        }
    }
}

impl Drop for Player {
    /// Asks it to end before it is killed, so that it can leave the terminal in order.
    fn drop(&mut self) {
        let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) else { return };
        let group = Pid::from_raw(id);
        if killpg(group, Signal::SIGTERM).is_err() {
            return;
        }
        let deadline = std::time::Instant::now() + END_WITHIN;
        while std::time::Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // Who is left of the group took no notice.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

/// The arguments of a player that is known by name.
fn known(text: &str) -> Option<&'static [&'static str]> {
    match text {
        "mpv" => Some(&["mpv", "--no-terminal", "--force-window=immediate", PLACE]),
        // Nothing of its Qt windows: where they are not installed, VLC does not start with an option of theirs.
        "vlc" => Some(&["vlc", "--play-and-exit", PLACE]),
        "ffplay" => Some(&["ffplay", "-autoexit", "-loglevel", "error", PLACE]),
        _ => None,
    }
}

fn command(text: &str, url: &str) -> anyhow::Result<Vec<String>> {
    let mut words = match known(text) {
        Some(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        None => split(text)?,
    };
    ensure!(!words.is_empty(), "--player names no command");
    if !words.iter().any(|word| word.contains(PLACE)) {
        words.push(PLACE.to_owned());
    }
    Ok(words.into_iter().map(|word| word.replace(PLACE, url)).collect())
}

/// Words between spaces; quotes of either kind keep spaces together. No shell has a part in it.
fn split(text: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for sign in text.chars() {
        match (quote, sign) {
            (Some(open), sign) if open == sign => quote = None,
            (None, '"' | '\'') => {
                quote = Some(sign);
                word.get_or_insert_default();
            }
            (None, sign) if sign.is_whitespace() => words.extend(word.take()),
            (_, sign) => word.get_or_insert_default().push(sign),
        }
    }
    ensure!(quote.is_none(), "a quote in --player is not closed");
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_gets_the_address_where_it_says_or_at_its_end() {
        let of = |text| command(text, "http://x/a b").unwrap();
        assert_eq!(
            of("ffmpeg -i {url} -f null -"),
            ["ffmpeg", "-i", "http://x/a b", "-f", "null", "-"]
        );
        assert_eq!(of("my 'own player' \"\""), ["my", "own player", "", "http://x/a b"]);
        assert_eq!(of("mpv").first().unwrap(), "mpv");
        assert!(command("", "u").is_err());
        assert!(command("a 'b", "u").is_err());
    }

    #[tokio::test]
    async fn a_player_that_fails_is_told_and_one_that_is_missing_is_named() {
        assert_eq!(Player::start("true", "u").unwrap().ended().await, End::Film);
        let failed = Player::start("false", "u").unwrap().ended().await;
        assert!(matches!(failed, End::Player(words) if words.contains("false")));
        assert!(Player::start("no-such-player-here", "u").is_err());
    }

    #[tokio::test]
    async fn a_player_ends_with_the_visit() {
        let player = Player::start("sleep 1000 --", "u");
        let id = player.as_ref().unwrap().child.id().unwrap();
        drop(player);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z"), "{state}");
    }
}
