//! The special tokens around a text, learnt once from the tokenizer's post-processor.

use tokenizers::{Encoding as RawEncoding, Tokenizer};

use crate::error::ModelError;
use crate::tokenize::Encoding;

/// Special tokens before, between and after the texts of an input, with their token types.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    head: Vec<(u32, u32)>,
    first_type: u32,
    middle: Vec<(u32, u32)>,
    second_type: u32,
    tail: Vec<(u32, u32)>,
}

impl Template {
    /// Learns what surrounds one text, and what surrounds two.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Result<(Self, Self), ModelError> {
        let wrong = |error: tokenizers::Error| ModelError::Tokenize { reason: error.to_string() };
        let dummy = || {
            let token = tokenizers::Token::new(0, String::from("x"), (0, 1));
            RawEncoding::from_tokens(vec![token], 0)
        };
        let single = tokenizer.post_process(dummy(), None, true).map_err(wrong)?;
        let pair = tokenizer.post_process(dummy(), Some(dummy()), true).map_err(wrong)?;
        Ok((Self::learn(&single), Self::learn(&pair)))
    }

    fn learn(encoding: &RawEncoding) -> Self {
        let mut template = Self::default();
        let mut texts = 0;
        let tokens = encoding.get_ids().iter().zip(encoding.get_type_ids());
        for ((&id, &kind), &special) in tokens.zip(encoding.get_special_tokens_mask()) {
            match (special == 1, texts) {
                (false, 0) => (template.first_type, texts) = (kind, 1),
                (false, _) => (template.second_type, texts) = (kind, 2),
                (true, 0) => template.head.push((id, kind)),
                // Between the texts, or after the only one: told apart when the second comes.
                (true, 1) => template.middle.push((id, kind)),
                (true, _) => template.tail.push((id, kind)),
            }
        }
        template
    }

    /// Special tokens of an input.
    pub(crate) fn added(&self) -> usize {
        self.head.len() + self.middle.len() + self.tail.len()
    }

    /// Surrounds the pieces: parts of the first text, then of the second.
    pub(crate) fn wrap(&self, first: &[&[u32]], second: &[&[u32]]) -> Encoding {
        let count: usize = first.iter().chain(second).map(|piece| piece.len()).sum();
        let mut ids = Vec::with_capacity(count + self.added());
        let mut type_ids = Vec::with_capacity(count + self.added());
        let parts = [
            (&self.head, first, self.first_type),
            (&self.middle, second, self.second_type),
            (&self.tail, &[], 0),
        ];
        for (specials, pieces, kind) in parts {
            ids.extend(specials.iter().map(|token| token.0));
            type_ids.extend(specials.iter().map(|token| token.1));
            ids.extend(pieces.iter().copied().flatten());
            type_ids.resize(ids.len(), kind);
        }
        Encoding { ids, type_ids }
    }
}
