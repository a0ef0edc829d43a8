//! What can go wrong between this machine and the hub, in the words a user can act on.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// The hub never needs longer messages; a proxy's HTML page in a header would be.
const MAX_MESSAGE_CHARS: usize = 240;
/// A longer `Retry-After` is not waited for: the start of a server would seem to hang.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) enum Failure {
    /// The hub answers, and says that the thing is not there.
    NotFound(String),
    /// The hub answers, and does not give it to us.
    Refused(String),
    /// Trying again may help.
    Transient { message: String, retry_after: Option<Duration> },
    /// The answer is not one a hub gives, or its bytes are wrong.
    Broken(String),
    /// This machine's disk.
    Disk { file: String, source: std::io::Error },
}

impl Failure {
    pub(super) fn transient(message: impl fmt::Display) -> Self {
        Self::Transient { message: one_line(&message.to_string()), retry_after: None }
    }

    pub(super) fn broken(message: impl fmt::Display) -> Self {
        Self::Broken(one_line(&message.to_string()))
    }

    /// For `map_err`: names the file that an I/O error is about.
    pub(super) fn disk(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let file = path.display().to_string();
        |source| Self::Disk { file, source }
    }

    /// Of a request that got no answer. Only what a repeat cannot mend is final.
    pub(super) fn of_error(error: ureq::Error, host: &str) -> Self {
        use ureq::Error as E;
        let message = one_line(&format!("{host}: {error}"));
        match error {
            E::BadUri(_) | E::InvalidProxyUrl | E::RequireHttpsOnly(_) | E::Http(_) => {
                Self::Broken(message)
            }
            // A wrong certificate stays wrong.
            E::Tls(_) | E::Rustls(_) | E::Pem(_) => Self::Broken(message),
            E::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => Self::Broken(message),
            _ => Self::Transient { message, retry_after: None },
        }
    }

    /// Of an answer that is neither a success nor a redirect. `what` is what was asked for.
    pub(super) fn of_status(status: StatusCode, headers: &HeaderMap, what: &str) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = header("x-error-code").unwrap_or_default();
        let said = header("x-error-message").map(one_line);
        let said = said.map_or_else(String::new, |said| format!(" ({said})"));
        match (status.as_u16(), code) {
            (_, "GatedRepo") | (403, _) => Self::Refused(format!(
                "access to {what} is restricted{said}: accept the licence on the repository's page \
                 and set HF_TOKEN to a token of that account"
            )),
            // The hub answers 401 for what is not there too, so as not to tell what is private.
            (401, _) => Self::Refused(format!(
                "the hub asks for a login for {what}{said}: check the name; if the repository is \
                 private or gated, accept its licence and set HF_TOKEN to a valid token"
            )),
            (404, "RevisionNotFound") => {
                Self::NotFound(format!("there is no such revision: {what}"))
            }
            (404, "EntryNotFound") => Self::NotFound(format!("there is no such file: {what}")),
            (404, _) => Self::NotFound(format!(
                "there is no such repository: {what}{said}; check the name, or set HF_TOKEN if it \
                 is private"
            )),
            (408 | 425 | 429 | 500..=599, _) => Self::Transient {
                message: format!("{what}: status {status}{said}"),
                retry_after: header("retry-after")
                    .and_then(|seconds| seconds.trim().parse().ok())
                    .map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER)),
            },
            _ => Self::broken(format!("{what}: status {status}{said}")),
        }
    }
}

/// Bounded, and without the characters that would break a log line.
pub(super) fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(MAX_MESSAGE_CHARS).collect()
}

/// Bounded retries with growing pauses.
#[derive(Debug)]
pub(super) struct Retries {
    first_pause: Duration,
    failures: u32,
}

impl Retries {
    /// With pauses of 0.5, 1, 2 and 4 seconds: long enough for a hiccup, short enough that a wrong
    /// endpoint is told before a user gives up.
    const MAX_TRIES: u32 = 5;

    pub(super) fn new(first_pause: Duration) -> Self {
        Self { first_pause, failures: 0 }
    }

    /// Waits before another try, or gives the failure back where another try is no use.
    pub(super) fn wait_after(&mut self, failure: Failure) -> Result<(), Failure> {
        let Failure::Transient { message, retry_after } = &failure else { return Err(failure) };
        self.failures += 1;
        if self.failures >= Self::MAX_TRIES {
            return Err(failure);
        }
        // Many replicas that start at once should not come back at once.
        let spread = self.first_pause.mul_f64((super::cache::unique() % 64) as f64 / 64.0);
        let pause = self.first_pause * 2u32.pow(self.failures - 1) + spread;
        let pause = retry_after.map_or(pause, |asked| asked.max(pause));
        tracing::warn!(pause_ms = pause.as_millis() as u64, "{message}; trying again");
        std::thread::sleep(pause);
        Ok(())
    }

    /// A download that moves on is not failing, however often its connection breaks.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Runs `step` until it succeeds, fails for good, or was tried often enough.
    pub(super) fn run<T>(
        mut self,
        mut step: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        loop {
            match step() {
                Ok(value) => return Ok(value),
                Err(failure) => self.wait_after(failure)?,
            }
        }
    }
}
