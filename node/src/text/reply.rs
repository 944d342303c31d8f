//! Writes replies into the connection's output buffer.
//!
//! The reason of a `fail` is one line: a line feed in it would end the reply early.

use std::io::Write;

/// `succ N`: N copies were written.
pub fn succeeded(out: &mut Vec<u8>, copies: usize) {
    line(out, format_args!("succ {copies}"));
}

/// `yes N` or `no N`: N copies said so.
pub fn has(out: &mut Vec<u8>, there: bool, copies: usize) {
    let word = if there { "yes" } else { "no" };
    line(out, format_args!("{word} {copies}"));
}

/// `not_found`.
pub fn not_found(out: &mut Vec<u8>) {
    line(out, format_args!("not_found"));
}

/// `close`.
pub fn close(out: &mut Vec<u8>) {
    line(out, format_args!("close"));
}

/// `fail REASON`.
pub fn fail(out: &mut Vec<u8>, reason: &str) {
    let reason = reason.replace(['\n', '\r'], " ");
    line(out, format_args!("fail {reason}"));
}

/// What comes before the values of a get.
pub fn found(out: &mut Vec<u8>, values: usize, context: &[u8]) {
    put(out, format_args!("succ {values} {} ", context.len()));
    out.extend_from_slice(context);
}

/// What comes before each value of a get.
pub fn value(out: &mut Vec<u8>, length: u64) {
    put(out, format_args!(" {length} "));
}

/// What comes behind the last value of a get.
pub fn end(out: &mut Vec<u8>) {
    out.push(b'\n');
}

/// The hash of each value of a key.
pub fn hashes<'a>(out: &mut Vec<u8>, hashes: impl ExactSizeIterator<Item = &'a [u8; 32]>) {
    put(out, format_args!("succ {}", hashes.len()));
    for hash in hashes {
        out.push(b' ');
        for byte in hash {
            put(out, format_args!("{byte:02x}"));
        }
    }
    end(out);
}

fn line(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    put(out, text);
    end(out);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes all bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_those_of_the_original() {
        let mut out = Vec::new();
        succeeded(&mut out, 1);
        has(&mut out, true, 1);
        has(&mut out, false, 1);
        not_found(&mut out);
        found(&mut out, 2, b"CTX");
        for data in [&b"b"[..], b""] {
            value(&mut out, data.len() as u64);
            out.extend_from_slice(data);
        }
        end(&mut out);
        hashes(&mut out, [[0xab; 32]].iter());
        fail(&mut out, "one\ntwo");
        close(&mut out);
        let expected = format!(
            "succ 1\nyes 1\nno 1\nnot_found\nsucc 2 3 CTX 1 b 0 \nsucc 1 {}\nfail one two\nclose\n",
            "ab".repeat(32)
        );
        assert_eq!(out, expected.as_bytes());
    }
}
