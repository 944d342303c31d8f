//! Bits of a map: the lowest bit of the first byte is the region's first unit.

use std::ops::Range;

/// Sets or clears a range; the bits must be otherwise, or the first that is not is given.
pub(crate) fn change(bits: &mut [u8], range: Range<u32>, to: bool) -> Result<(), u32> {
    if let Some(index) = find(bits, range.clone(), to) {
        return Err(index);
    }
    let (mut at, end) = (range.start, range.end);
    while at < end {
        let byte_end = (at / 8 + 1) * 8;
        let stop = end.min(byte_end);
        let mask = mask(at % 8, stop - at);
        bits[(at / 8) as usize] ^= mask;
        at = stop;
    }
    Ok(())
}

/// The first bit of a range that is as wanted.
pub(crate) fn find(bits: &[u8], range: Range<u32>, wanted: bool) -> Option<u32> {
    let mut at = range.start;
    while at < range.end {
        // 57 bits at least from `at` on.
        let byte = at / 8;
        let mut word = word(bits, byte as usize);
        if !wanted {
            word = !word;
        }
        word >>= at % 8;
        let stop = (byte * 8 + 64).min(range.end);
        if word != 0 {
            let found = at + word.trailing_zeros();
            // Past the end of the bits, the complement is not to be believed.
            return (found < range.end).then_some(found);
        }
        at = stop;
    }
    None
}

/// The runs of zeros of a range, as first index and length.
pub(crate) fn zero_runs(bits: &[u8], range: Range<u32>) -> impl Iterator<Item = (u32, u32)> + '_ {
    let mut at = range.start;
    std::iter::from_fn(move || {
        let start = find(bits, at..range.end, false)?;
        let end = find(bits, start..range.end, true).unwrap_or(range.end);
        at = end;
        Some((start, end - start))
    })
}

/// Eight bytes from `byte` on, zeros behind the end.
fn word(bits: &[u8], byte: usize) -> u64 {
    let rest = bits.get(byte..).unwrap_or(&[]);
    if let Some(eight) = rest.first_chunk() {
        return u64::from_le_bytes(*eight);
    }
    let mut eight = [0; 8];
    eight[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(eight)
}

fn mask(first: u32, count: u32) -> u8 {
    let ones = if count >= 8 {
        u8::MAX
    } else {
        (1 << count) - 1
    };
    ones << first
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bits_are_those_of_a_list_of_booleans(
            model in proptest::collection::vec(any::<bool>(), 1..300),
            ends in (0usize..300, 0usize..300),
            sparse in any::<bool>(),
        ) {
            let mut model = model;
            if sparse {
                let count = model.len();
                model[count / 4..].fill(false);
            }
            let mut bits = vec![0u8; model.len().div_ceil(8)];
            for (index, _) in model.iter().enumerate().filter(|(_, set)| **set) {
                bits[index / 8] |= 1 << (index % 8);
            }
            let (low, high) = (ends.0.min(ends.1).min(model.len()), ends.0.max(ends.1).min(model.len()));
            let range = u32::try_from(low).unwrap()..u32::try_from(high).unwrap();
            for wanted in [false, true] {
                let expected = model[low..high].iter().position(|&bit| bit == wanted);
                let got = find(&bits, range.clone(), wanted).map(|at| at as usize - low);
                prop_assert_eq!(got, expected);
            }
            let mut seen = vec![true; model.len()];
            for (start, units) in zero_runs(&bits, range.clone()) {
                seen[start as usize..(start + units) as usize].fill(false);
            }
            prop_assert_eq!(&seen[low..high], &model[low..high]);
            for to in [false, true] {
                let mut changed = bits.clone();
                let expected = model[low..high].iter().position(|&bit| bit == to);
                let got = change(&mut changed, range.clone(), to).map_err(|at| at as usize - low);
                prop_assert_eq!(got, expected.map_or(Ok(()), Err));
                if expected.is_none() {
                    for (index, &bit) in model.iter().enumerate() {
                        let now = changed[index / 8] >> (index % 8) & 1 == 1;
                        prop_assert_eq!(now, if (low..high).contains(&index) { to } else { bit });
                    }
                }
            }
        }
    }
}
