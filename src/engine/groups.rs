//! Cuts a batch into groups of whole sequences, each small enough for one core's cache.
//!
//! A thread runs the whole forward pass of a group before it takes the next one, so the forward pass has no
//! barrier. Groups are balanced by cost and there is a multiple of `num_threads` of them: a request of 20
//! documents keeps all threads busy to its end.

/// Token rows a group aims for where a model's weights stay in cache. Fewer read them from memory too often (128 rows:
/// 10% slower), more outgrow a 2 MiB L2 cache; 384 and 512 were the best with MiniLM on AVX-512.
pub const GROUP_TOKENS: usize = 384;

/// The sequences of a batch, dealt to groups. Keeps its memory from batch to batch.
#[derive(Debug)]
pub struct Groups {
    num_threads: usize,
    /// What a group aims for.
    group_tokens: usize,
    max_tokens: usize,
    /// Longest first.
    order: Vec<u32>,
    group_of: Vec<u32>,
    loads: Vec<Load>,
    /// Where the group that was dealt to as the `i`th stands.
    place_of: Vec<u32>,
    /// Sequence indices, group after group.
    members: Vec<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    tokens: usize,
    cost: u64,
    /// Its number while sequences were dealt.
    dealt: u32,
    /// One past the group's last member; while dealing, the number of them.
    end: usize,
}

impl Groups {
    /// `max_length` bounds one sequence; groups aim for `group_tokens`, and none exceeds [`Self::max_tokens`].
    pub fn new(num_threads: usize, max_length: usize, group_tokens: usize) -> Self {
        Self {
            num_threads,
            group_tokens,
            max_tokens: max_length.max(group_tokens * 4 / 3),
            order: Vec::new(),
            group_of: Vec::new(),
            loads: Vec::new(),
            place_of: Vec::new(),
            members: Vec::new(),
        }
    }

    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    pub fn len(&self) -> usize {
        self.loads.len()
    }

    pub fn is_empty(&self) -> bool {
        self.loads.is_empty()
    }

    /// The sequences of group `i`.
    pub fn members(&self, i: usize) -> &[u32] {
        let start = if i == 0 { 0 } else { self.loads[i - 1].end };
        &self.members[start..self.loads[i].end]
    }

    /// Deals the sequences given by `cu_seqlens`, the longest first, each to the group with the least to
    /// do. A token costs `token_cost` plus the length of its sequence (attention). The group that costs most comes
    /// first, so that threads which take the next one end together (Graham, "Bounds on multiprocessing timing
    /// anomalies", 1969).
    pub fn deal(&mut self, cu_seqlens: &[u32], token_cost: u64) {
        let len = |i: u32| (cu_seqlens[i as usize + 1] - cu_seqlens[i as usize]) as usize;
        let num_sequences = cu_seqlens.len().saturating_sub(1);
        let num_tokens = cu_seqlens.last().map_or(0, |end| *end as usize);

        self.order.clear();
        self.order.extend(0..num_sequences as u32);
        self.order.sort_unstable_by_key(|&i| (std::cmp::Reverse(len(i)), i));

        let num_groups = num_tokens
            .div_ceil(self.group_tokens)
            .next_multiple_of(self.num_threads)
            .min(num_sequences);
        self.loads.clear();
        self.loads.extend((0..num_groups as u32).map(|dealt| Load { dealt, ..Load::default() }));
        self.group_of.clear();
        self.group_of.resize(num_sequences, 0);
        for &i in &self.order {
            let tokens = len(i);
            let open = self.loads.iter().enumerate();
            let fits = open.filter(|(_, load)| load.tokens + tokens <= self.max_tokens);
            let group = match fits.min_by_key(|(_, load)| load.cost) {
                Some((group, _)) => group,
                None => {
                    let dealt = self.loads.len();
                    self.loads.push(Load { dealt: dealt as u32, ..Load::default() });
                    dealt
                }
            };
            let load = &mut self.loads[group];
            load.tokens += tokens;
            load.cost += tokens as u64 * (token_cost + tokens as u64);
            load.end += 1;
            self.group_of[i as usize] = group as u32;
        }
        self.loads.sort_unstable_by_key(|load| (std::cmp::Reverse(load.cost), load.dealt));
        self.place_of.clear();
        self.place_of.resize(self.loads.len(), 0);
        for (place, load) in self.loads.iter().enumerate() {
            self.place_of[load.dealt as usize] = place as u32;
        }
        for group in &mut self.group_of {
            *group = self.place_of[*group as usize];
        }
        self.collect_members(num_sequences);
    }

    /// Turns the counts in `end` into ends and fills `members`.
    fn collect_members(&mut self, num_sequences: usize) {
        let mut start = 0;
        for load in &mut self.loads {
            (load.end, start) = (start, start + load.end);
        }
        self.members.clear();
        self.members.resize(num_sequences, 0);
        for &i in &self.order {
            let load = &mut self.loads[self.group_of[i as usize] as usize];
            self.members[load.end] = i;
            load.end += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cu_seqlens(lens: &[usize]) -> Vec<u32> {
        let ends = lens.iter().scan(0, |end, len| {
            *end += *len as u32;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    proptest! {
        #[test]
        fn every_sequence_is_in_one_group_within_the_bound(
            lens in prop::collection::vec(1usize..=512, 0..200),
            num_threads in 1usize..9,
        ) {
            let mut groups = Groups::new(num_threads, 512, GROUP_TOKENS);
            groups.deal(&cu_seqlens(&lens), 2304);
            let mut seen = vec![0; lens.len()];
            for i in 0..groups.len() {
                let members = groups.members(i);
                members.iter().for_each(|&m| seen[m as usize] += 1);
                let tokens: usize = members.iter().map(|&m| lens[m as usize]).sum();
                prop_assert!(tokens <= groups.max_tokens(), "group {i} has {tokens} tokens");
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
        }

        #[test]
        fn groups_come_in_the_order_of_their_cost(
            lens in prop::collection::vec(1usize..=512, 0..200),
            num_threads in 1usize..9,
        ) {
            let mut groups = Groups::new(num_threads, 512, GROUP_TOKENS);
            groups.deal(&cu_seqlens(&lens), 2304);
            let cost = |i| {
                let lens = groups.members(i).iter().map(|&m| lens[m as usize]);
                lens.map(|len| len * (2304 + len)).sum::<usize>()
            };
            prop_assert!((1..groups.len()).all(|i| cost(i - 1) >= cost(i)));
        }
    }

    #[test]
    fn twenty_documents_keep_two_threads_equally_busy() {
        let mut groups = Groups::new(2, 512, GROUP_TOKENS);
        groups.deal(&cu_seqlens(&[128; 20]), 2304);
        // As the threads do: whoever is free takes the next group.
        let mut busy = [0; 2];
        for i in 0..groups.len() {
            busy.sort_unstable();
            busy[0] += groups.members(i).len();
        }
        assert_eq!(busy, [10, 10]);
    }
}
