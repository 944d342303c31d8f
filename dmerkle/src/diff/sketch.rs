//! Power sums of short ids in GF(2^32), and how the ids that only one side holds are read off.
//!
//! The sketch of a set is the list of its odd power sums `s1, s3, s5, ...`; even ones follow,
//! because squaring is linear here. Two sketches, added, are the sketch of the symmetric
//! difference: what both hold cancels. `c` sums tell any difference of at most `c` ids
//! (the syndromes of a BCH code: Berlekamp-Massey finds the polynomial whose roots are the ids,
//! Berlekamp's trace algorithm finds the roots). A larger difference mostly decodes to nothing,
//! sometimes to rubbish: the caller checks what it gets against counts, ids and sums.

use super::PARTS;

/// The most sums of a sketch: decoding costs the square, and computing them all the entries times
/// this.
pub(super) const CAPACITY_MAX: u32 = 64;

/// `x^32 + x^7 + x^3 + x^2 + 1`, irreducible, without its highest term.
const MODULUS: u64 = 0x8d;

/// A field element prepared to be multiplied by others.
#[derive(Clone, Copy)]
struct Factor([u64; 16]);

impl Factor {
    fn new(element: u32) -> Self {
        let one = u64::from(element);
        let mut multiples = [0; 16];
        multiples[1] = one;
        for i in 1..8 {
            multiples[2 * i] = multiples[i] << 1;
            multiples[2 * i + 1] = multiples[2 * i] ^ one;
        }
        Self(multiples)
    }

    fn times(&self, other: u32) -> u32 {
        let mut product = 0;
        for byte in other.to_be_bytes() {
            product = product << 4 ^ self.0[usize::from(byte >> 4)];
            product = product << 4 ^ self.0[usize::from(byte & 15)];
        }
        reduce(product)
    }
}

/// The remainder of a product of two elements, which has at most 63 bits.
fn reduce(product: u64) -> u32 {
    let fold = |wide: u64| {
        let high = wide >> 32;
        wide & 0xffff_ffff ^ high ^ high << 2 ^ high << 3 ^ high << 7
    };
    debug_assert_eq!(MODULUS, 1 | 1 << 2 | 1 << 3 | 1 << 7);
    // The first fold leaves at most 38 bits, the second 32.
    (fold(fold(product)) & 0xffff_ffff) as u32
}

fn times(a: u32, b: u32) -> u32 {
    Factor::new(a).times(b)
}

fn square(element: u32) -> u32 {
    // Squaring spreads the bits.
    let mut bits = u64::from(element);
    bits = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    bits = (bits | bits << 8) & 0x00ff_00ff_00ff_00ff;
    bits = (bits | bits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    bits = (bits | bits << 2) & 0x3333_3333_3333_3333;
    bits = (bits | bits << 1) & 0x5555_5555_5555_5555;
    reduce(bits)
}

/// The inverse of an element that is not 0: its power `2^32 - 2`.
fn inverse(element: u32) -> u32 {
    let mut power = element;
    let mut result = 1;
    for _ in 1..32 {
        power = square(power);
        result = times(result, power);
    }
    result
}

fn power(element: u32, mut exponent: u32) -> u32 {
    let mut base = element;
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, base);
        }
        base = square(base);
        exponent >>= 1;
    }
    result
}

/// Adds the power sums of `ids` numbered `from..from + sums.len()` to `sums`; the exponent of
/// number `i` is `2i + 1`.
pub(super) fn add(sums: &mut [u32], from: u32, ids: &[u32]) {
    // Four ids at once, because each multiplication waits for the one before it. The power sums
    // of 0, which fills up the last four, are 0.
    let Some((last, others)) = sums.split_last_mut() else {
        return;
    };
    for four in ids.chunks(4) {
        let mut padded = [0; 4];
        padded[..four.len()].copy_from_slice(four);
        let mut terms = padded;
        if from > 0 {
            terms = padded.map(|id| power(id, 2 * from + 1));
        }
        if !others.is_empty() {
            let steps = padded.map(|id| Factor::new(square(id)));
            for sum in &mut *others {
                *sum ^= terms[0] ^ terms[1] ^ terms[2] ^ terms[3];
                for (term, step) in terms.iter_mut().zip(&steps) {
                    *term = step.times(*term);
                }
            }
        }
        *last ^= terms[0] ^ terms[1] ^ terms[2] ^ terms[3];
    }
}

/// The ids of which `sums` are the odd power sums, if they are at most as many as the sums.
pub(super) fn decode(sums: &[u32]) -> Option<Vec<u32>> {
    let mut powers = vec![0; 2 * sums.len()];
    for (i, &sum) in sums.iter().enumerate() {
        powers[2 * i] = sum;
    }
    for i in 1..=sums.len() {
        powers[2 * i - 1] = square(powers[i - 1]);
    }
    let mut locator = berlekamp_massey(&powers);
    let degree = locator.len() - 1;
    if degree > sums.len() || locator[degree] == 0 {
        return None;
    }
    // The locator's roots are the inverses of the ids; those of its mirror are the ids.
    locator.reverse();
    make_monic(&mut locator);
    roots(&locator)
}

// Polynomials: coefficients by rising power, the last one not 0.

/// The shortest linear recurrence that makes `sequence`, with first coefficient 1.
fn berlekamp_massey(sequence: &[u32]) -> Vec<u32> {
    let mut current = vec![1];
    let mut former = vec![1];
    let mut length = 0;
    let mut shift = 1;
    let mut former_gap_inverse = 1;
    for at in 0..sequence.len() {
        let mut gap = sequence[at];
        for i in 1..current.len().min(at + 1) {
            gap ^= times(current[i], sequence[at - i]);
        }
        if gap == 0 {
            shift += 1;
            continue;
        }
        let factor = Factor::new(times(gap, former_gap_inverse));
        let mut next = current.clone();
        if next.len() < former.len() + shift {
            next.resize(former.len() + shift, 0);
        }
        for (i, &coefficient) in former.iter().enumerate() {
            next[i + shift] ^= factor.times(coefficient);
        }
        if 2 * length <= at {
            length = at + 1 - length;
            former = std::mem::replace(&mut current, next);
            former_gap_inverse = inverse(gap);
            shift = 1;
        } else {
            current = next;
            shift += 1;
        }
    }
    current.resize(length + 1, 0);
    current
}

fn trim(polynomial: &mut Vec<u32>) {
    while polynomial.last() == Some(&0) {
        polynomial.pop();
    }
}

fn make_monic(polynomial: &mut [u32]) {
    let Some(&last) = polynomial.last() else {
        return;
    };
    if last != 1 {
        let factor = Factor::new(inverse(last));
        for coefficient in polynomial {
            *coefficient = factor.times(*coefficient);
        }
    }
}

/// Leaves the remainder by `divisor`, which is monic, in `polynomial`; the quotient is returned.
fn divide(polynomial: &mut Vec<u32>, divisor: &[u32]) -> Vec<u32> {
    let degree = divisor.len() - 1;
    if polynomial.len() <= degree {
        return Vec::new();
    }
    let mut quotient = vec![0; polynomial.len() - degree];
    for at in (0..quotient.len()).rev() {
        let lead = polynomial[at + degree];
        quotient[at] = lead;
        if lead == 0 {
            continue;
        }
        let lead = Factor::new(lead);
        for (coefficient, &other) in polynomial[at..].iter_mut().zip(divisor) {
            *coefficient ^= lead.times(other);
        }
    }
    polynomial.truncate(degree);
    trim(polynomial);
    quotient
}

/// The greatest common divisor, monic.
fn common(mut a: Vec<u32>, mut b: Vec<u32>) -> Vec<u32> {
    while !b.is_empty() {
        make_monic(&mut b);
        divide(&mut a, &b);
        std::mem::swap(&mut a, &mut b);
    }
    make_monic(&mut a);
    a
}

/// The roots of a monic polynomial, if it has as many different ones as its degree.
fn roots(polynomial: &[u32]) -> Option<Vec<u32>> {
    let degree = polynomial.len() - 1;
    let mut found = Vec::with_capacity(degree);
    if degree <= 1 {
        found.extend_from_slice(&polynomial[..degree]);
        return Some(found);
    }
    // x^(2^i) modulo the polynomial, for all i: what traces are made of.
    let mut conjugates = Vec::with_capacity(32);
    let mut next = vec![0, 1];
    for _ in 0..32 {
        conjugates.push(next.clone());
        let mut squared = vec![0; 2 * next.len() - 1];
        for (i, &coefficient) in next.iter().enumerate() {
            squared[2 * i] = square(coefficient);
        }
        divide(&mut squared, polynomial);
        next = squared;
        if next.is_empty() {
            return None;
        }
    }
    // x^(2^32) = x exactly if the polynomial divides the product of all (x - element).
    if next != [0, 1] {
        return None;
    }
    // For each element of a basis the trace is 0 on half of the field. No two elements agree in
    // all 32 traces, so the basis is never exhausted before the factors are linear.
    let mut factors = vec![polynomial.to_vec()];
    for bit in 0..32 {
        if factors.is_empty() {
            break;
        }
        let trace = trace(&conjugates, 1 << bit);
        for factor in std::mem::take(&mut factors) {
            let mut residue = trace.clone();
            divide(&mut residue, &factor);
            let one = common(factor.clone(), residue);
            let mut rest = factor;
            let other = divide(&mut rest, &one);
            for part in [one, other] {
                match part.len() {
                    0 | 1 => {}
                    2 => found.push(part[0]),
                    _ => factors.push(part),
                }
            }
        }
    }
    (found.len() == degree).then_some(found)
}

/// The sum over `i` of `(element x)^(2^i)`, modulo the conjugates' polynomial.
fn trace(conjugates: &[Vec<u32>], element: u32) -> Vec<u32> {
    let mut sum = Vec::new();
    let mut factor = element;
    for conjugate in conjugates {
        let multiplier = Factor::new(factor);
        if sum.len() < conjugate.len() {
            sum.resize(conjugate.len(), 0);
        }
        for (total, &coefficient) in sum.iter_mut().zip(conjugate) {
            *total ^= multiplier.times(coefficient);
        }
        factor = square(factor);
    }
    trim(&mut sum);
    sum
}

/// How many sums to give for a range that is known to differ, when `unequal` of `ranges` like it
/// do. A changed entry makes two ids. Too few costs a round trip, too many cost four bytes each.
pub(super) fn capacity(unequal: u64, ranges: u64) -> u32 {
    // Three tell one difference, and at least one there is. 2.9 sums for each that is expected and
    // two more were best for 100 to 10,000 differences among a million.
    (2 + density(unequal, ranges) / 2).max(3)
}

/// How many differences each of `ranges` ranges holds, when `unequal` of them differ: 0.17 times
/// what is returned. If they fall at random it is `ln(ranges / equal)`, here in quarters of the
/// logarithm to base 2.
fn density(unequal: u64, ranges: u64) -> u32 {
    // Half an equal range is granted, lest it be infinite.
    let numerator = u128::from(2 * ranges.min(1 << 20));
    let denominator = u128::from(2 * ranges.saturating_sub(unequal).min(1 << 20) + 1);
    (numerator.pow(4) / denominator.pow(4)).max(1).ilog2()
}

/// Fewer ranges than this do not tell how densely differences lie.
const DENSITY_RANGES: u64 = 16;

/// About as many entries as a leaf of a tree has, or some more: a sum of less is not at hand in a
/// branch, but must be made by hashing the entries.
const LEAF_ENTRIES: u64 = 128;

/// Differences a range, from which on the asker does not cut it again.
const ASKING_DENSITY_MAX: u64 = 8;

/// Whose turn it is to cut a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The asker has to ask about the range anyway: cut or whole costs no round trip.
    Asking,
    /// The peer could send its sketch at once: a cut costs a round trip.
    Answering,
}

/// Into how many parts to cut a differing range of `entries`, when `unequal` of `ranges` like it
/// differ; below 2: better sketch it as it is.
///
/// Both sides must read and hash every entry of a sketched range. Where most ranges differ that
/// would be most of the copy, though most of it is equal: about ten bytes for a part's sum spare
/// the entries of all parts that have no difference. The numbers are those that made 1000
/// differences among a million cheap in time within 120 KB.
pub(super) fn parts(unequal: u64, ranges: u64, entries: u64, turn: Turn) -> u64 {
    let density = u64::from(density(unequal, ranges));
    let (density_min, wanted) = match turn {
        // Where each range has many differences, cutting would find few equal parts.
        Turn::Asking if density > ASKING_DENSITY_MAX => return 1,
        Turn::Asking => (1, 8),
        // About two parts for each difference that is expected.
        Turn::Answering => (3, density.div_ceil(3)),
    };
    if ranges < DENSITY_RANGES || density < density_min {
        return 1;
    }
    wanted.min(entries / LEAF_ENTRIES).min(PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Multiplication as the textbook has it.
    fn slow_times(a: u32, b: u32) -> u32 {
        let mut product = 0;
        let mut shifted = a;
        for bit in 0..32 {
            if b >> bit & 1 == 1 {
                product ^= shifted;
            }
            let carry = shifted >> 31;
            shifted = (shifted << 1) ^ (carry * 0x8d);
        }
        product
    }

    #[test]
    fn the_modulus_is_irreducible() {
        // x^(2^32) = x, and x^(2^16) - x has no common root: the field has 2^32 elements.
        let mut element = 2;
        for _ in 0..16 {
            element = square(element);
        }
        assert_ne!(element, 2);
        for _ in 0..16 {
            element = square(element);
        }
        assert_eq!(element, 2);
    }

    proptest! {
        #[test]
        fn arithmetic_is_that_of_the_field(a: u32, b: u32) {
            prop_assert_eq!(times(a, b), slow_times(a, b));
            prop_assert_eq!(square(a), slow_times(a, a));
            prop_assert_eq!(power(a, 3), slow_times(a, slow_times(a, a)));
            if a != 0 {
                prop_assert_eq!(times(a, inverse(a)), 1);
            }
        }

        #[test]
        fn a_difference_within_the_capacity_decodes(
            shared in prop::collection::btree_set(1_u32.., 0..50),
            differing in prop::collection::btree_set(1_u32.., 0..=64),
            spare in 0_usize..4,
            cut in 0_usize..64,
        ) {
            let differing: BTreeSet<u32> = differing.difference(&shared).copied().collect();
            let (mine, theirs): (Vec<u32>, Vec<u32>) = differing.iter().partition(|&id| id % 3 == 0);
            let capacity = differing.len() + spare;
            let mut sums = vec![0; capacity];
            let all: Vec<u32> = shared.iter().chain(&mine).copied().collect();
            add(&mut sums, 0, &all);
            // The other side's come in two pieces.
            let (front, back) = sums.split_at_mut(cut.min(capacity));
            let all: Vec<u32> = shared.iter().chain(&theirs).copied().collect();
            add(front, 0, &all);
            add(back, u32::try_from(front.len()).unwrap(), &all);
            let found: BTreeSet<u32> = decode(&sums).unwrap().into_iter().collect();
            prop_assert_eq!(found, differing);
        }

        #[test]
        fn arbitrary_sums_decode_to_what_has_these_sums(sums in prop::collection::vec(any::<u32>(), 0..20)) {
            if let Some(ids) = decode(&sums) {
                let mut again = vec![0; sums.len()];
                add(&mut again, 0, &ids);
                prop_assert_eq!(again, sums);
            }
        }
    }
}
