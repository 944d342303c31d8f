//! An entry as one value of the model.

/// Meta and parts as one value: each with its length before it.
pub(super) fn encode(meta: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    let mut value = Vec::new();
    for piece in std::iter::once(meta).chain(parts.iter().map(Vec::as_slice)) {
        let length = u32::try_from(piece.len()).expect("tests write little");
        value.extend_from_slice(&length.to_le_bytes());
        value.extend_from_slice(piece);
    }
    value
}

/// The meta and parts of a value.
pub(super) fn decode(value: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut pieces = Vec::new();
    let mut rest = value;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let (piece, behind) = behind.split_at(length);
        pieces.push(piece.to_vec());
        rest = behind;
    }
    let parts = pieces.split_off(1);
    (pieces.pop().expect("the meta stands first"), parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_gives_back_its_meta_and_parts() {
        let parts = vec![vec![1; 3], Vec::new()];
        assert_eq!(decode(&encode(b"m", &parts)), (b"m".to_vec(), parts));
    }
}
