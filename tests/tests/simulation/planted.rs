//! Mistakes that are planted between the cores, so that it is known that the simulation finds such.

/// At most one in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Planted {
    /// None.
    #[default]
    Nothing,
    /// The proxy acknowledges a view before its workers go by it.
    EarlyAcknowledgement,
    /// A request that was taken by a replica that died counts as one that was not.
    TakenCountsAsUntaken,
    /// Two answers that come together are swapped.
    AnswersCrossed,
    /// A slot that was handed to a waiting request is lost on the way.
    GrantLost,
    /// A proxy takes each replica to run twice as many requests at a time as it may.
    LimitDoubled,
    /// A supervisor that takes over makes its first view before all replicas have come back.
    PartialAdoption,
    /// Calls enter anew at each hop, with the present epoch and not with that of their request.
    EpochForgotten,
}
