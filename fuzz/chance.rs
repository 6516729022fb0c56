//! Chance that can be had again, and what it does to bytes and texts.

/// A source of numbers that depends on its beginning alone.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        // Neighbours must not resemble each other, and the state must never be zero.
        let mut chance = Self((seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        for _ in 0..8 {
            chance.next();
        }
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end.max(1)
    }

    /// Once in so many times.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A number as lengths are in bad files: small, or at an edge.
    pub(crate) fn length(&mut self) -> u64 {
        match self.below(4) {
            0 => self.below(20) as u64,
            1 => 1 << self.below(64),
            2 => (1_u64 << self.below(64)).wrapping_sub(1),
            _ => self.next(),
        }
    }

    /// Changes some of the bytes: flips, numbers put in, pieces taken out, doubled, moved or cut off.
    pub(crate) fn change(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            let end = at + self.below((bytes.len() - at).min(64));
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => {
                    let number = self.length().to_le_bytes();
                    let end = (at + 8).min(bytes.len());
                    bytes.splice(at..end, number);
                }
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let piece = bytes[at..end].to_vec().repeat(1 + self.below(20));
                    bytes.splice(at..at, piece);
                }
                5 => bytes.truncate(at),
                _ => {
                    let piece = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, piece);
                }
            }
        }
    }

    /// Puts pieces together, some of them around others, and some of them very often.
    pub(crate) fn text_of(&mut self, pieces: &[&str], pairs: &[(&str, &str)], depth: usize) -> String {
        let mut text = String::new();
        for _ in 0..self.below(5) {
            match self.below(3) {
                0 if depth > 0 => {
                    let (open, close) = *self.one_of(pairs);
                    let inner = self.text_of(pieces, pairs, depth - 1);
                    let times = if self.once_in(20) { 1 + self.below(300) } else { 1 };
                    text.extend([open.repeat(times), inner, close.repeat(times)]);
                }
                _ => {
                    let piece = *self.one_of(pieces);
                    let times = if self.once_in(30) { 1 + self.below(300) } else { 1 };
                    text += &piece.repeat(times);
                }
            }
        }
        text
    }
}
