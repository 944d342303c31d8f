//! Frames, both ways, blocking and not. A body grows as its bytes come: what a frame announces is
//! not allocated on its word.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::FRAME_BYTES_MAX;

/// A message as a frame.
pub fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer is too long",
        ));
    }
    let length = u32::try_from(length).expect("at most 16 MiB");
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

fn length(head: [u8; 4]) -> io::Result<usize> {
    match usize::try_from(u32::from_le_bytes(head)) {
        Ok(length) if length <= FRAME_BYTES_MAX => Ok(length),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the frame is too long",
        )),
    }
}

fn decode<T: DeserializeOwned>(body: &[u8], announced: usize) -> io::Result<T> {
    if body.len() < announced {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(body)?)
}

/// Reads a message.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> io::Result<T> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let (length, mut body) = (length(head)?, Vec::new());
    stream.by_ref().take(length as u64).read_to_end(&mut body)?;
    decode(&body, length)
}

/// Writes a message.
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    stream.write_all(&encode(message)?)
}

/// Reads a message; `None` where the peer ended before one.
pub async fn receive<T: DeserializeOwned>(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut head = [0; 4];
    if let Err(error) = stream.read_exact(&mut head).await {
        let ended = error.kind() == io::ErrorKind::UnexpectedEof;
        return if ended { Ok(None) } else { Err(error) };
    }
    let (length, mut body) = (length(head)?, Vec::new());
    stream.take(length as u64).read_to_end(&mut body).await?;
    decode(&body, length).map(Some)
}

/// Writes a message.
pub async fn send(
    stream: &mut (impl tokio::io::AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    stream.write_all(&encode(message)?).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Answer, Hex, Request};

    #[test]
    fn a_message_comes_back_and_a_part_of_one_does_not() {
        let request = Request::Hashes {
            keys: vec![Hex(b"a\0\xff".to_vec()), Hex(Vec::new())],
        };
        let frame = encode(&request).unwrap();
        assert_eq!(read::<Request>(&mut &frame[..]).unwrap(), request);
        for end in 0..frame.len() {
            assert!(read::<Request>(&mut &frame[..end]).is_err());
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_unread() {
        let error = read::<Answer>(&mut &[0xff; 8][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
