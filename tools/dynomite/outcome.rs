//! How a command ends: its exit code, and a sentence where it failed.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::anyhow;
use node::client::ClientError;
use node::control::ControlError;

/// The exit codes; see the table at the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Done,
    Absent,
    Usage,
    Unreachable,
    Refused,
    Local,
    Damage,
    Broken,
    /// Nobody reads the output any more: nothing is said.
    Quiet,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(match code {
            Code::Done => 0,
            Code::Absent => 1,
            Code::Usage => 2,
            Code::Unreachable => 3,
            Code::Refused => 4,
            Code::Local | Code::Quiet => 5,
            Code::Damage => 6,
            Code::Broken => 7,
        })
    }
}

impl Code {
    /// A failure with this code and sentence.
    pub fn because<T>(self, sentence: impl Display) -> Result<T, Failure> {
        Err(self.failure(sentence))
    }

    /// A failure with this code and sentence.
    pub fn failure(self, sentence: impl Display) -> Failure {
        Failure {
            code: self,
            error: anyhow!("{sentence}"),
        }
    }
}

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub error: anyhow::Error,
}

/// How a command ended.
pub type Outcome = Result<Code, Failure>;

/// Names the thing that failed.
pub trait Naming<T> {
    /// Puts a name before the sentence of a fault, and gives it a code.
    fn naming(self, code: Code, name: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> Naming<T> for Result<T, E> {
    fn naming(self, code: Code, name: impl Display) -> Result<T, Failure> {
        self.map_err(|error| code.failure(format_args!("{name}: {error}")))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::Unreachable { .. } | ClientError::Broken(_) | ClientError::Strange(_) => {
                Code::Unreachable
            }
            ClientError::Refused(_) => Code::Refused,
            ClientError::Damaged(_) => Code::Damage,
            ClientError::Local(error) => return output(error),
        };
        let error = anyhow::Error::from(error);
        Self { code, error }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let code = match &error {
            ControlError::NotRunning { .. } => {
                return Code::Unreachable.failure(format_args!(
                    "{error}; start one with `dynomite start`, or name its folder with --data"
                ));
            }
            ControlError::Broken(_) | ControlError::Denied { .. } => Code::Unreachable,
            ControlError::Failed(_) => Code::Refused,
            ControlError::Damaged(_) => Code::Damage,
        };
        let error = anyhow::Error::from(error);
        Self { code, error }
    }
}

/// A fault of our own output, or of a file that is read or written.
pub fn output(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Code::Quiet.failure("nobody reads");
    }
    Code::Local.failure(error)
}

/// Writes to standard output.
pub fn say(text: impl Display) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}").map_err(|error| output(&error))
}

/// Writes a line to standard error. Where nobody reads that any more, the exit code has to do.
pub fn complain(text: impl Display) {
    let _ = writeln!(io::stderr(), "dynomite: {text}");
}

/// Writes JSON to standard output.
pub fn say_json(value: &serde_json::Value) -> Outcome {
    say(format_args!("{value:#}"))?;
    Ok(Code::Done)
}
