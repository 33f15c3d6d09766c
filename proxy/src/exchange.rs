//! What becomes of a request that lost its replica: one decision, in one place.

/// How the replica was lost to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It had not begun: it died before, or refused.
    NotTaken,
    /// It died, and may have begun.
    Taken,
}

/// The request, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// RFC 9110, 9.2.2.
    pub idempotent: bool,
    /// The whole body, or all that was sent of it, can be sent again.
    pub body_at_hand: bool,
    /// Something of an answer has gone out already.
    pub answered: bool,
    /// It was taken and lost once before.
    pub retried: bool,
    /// How often it has been sent elsewhere without having been taken.
    pub refusals: u8,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send it to another replica.
    Elsewhere,
    /// Answer 502.
    BadGateway,
    /// Answer 503: nobody takes it.
    Unavailable,
    /// An answer has begun and can't be finished: close the connection, so that the client sees it cut.
    Cut,
}

/// Times that a request may be refused before we give up: replicas that refuse are on their way out.
pub const REFUSALS_MAX: u8 = 16;

/// Decides.
pub fn after_loss(loss: Loss, standing: Standing) -> Verdict {
    match (loss, standing) {
        (_, Standing { answered: true, .. }) => Verdict::Cut,
        (Loss::NotTaken, Standing { refusals, .. }) if refusals >= REFUSALS_MAX => Verdict::Unavailable,
        (Loss::NotTaken, Standing { body_at_hand: true, .. }) => Verdict::Elsewhere,
        (Loss::Taken, Standing { idempotent: true, body_at_hand: true, retried: false, .. }) => {
            Verdict::Elsewhere
        }
        _ => Verdict::BadGateway,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Standing =
        Standing { idempotent: true, body_at_hand: true, answered: false, retried: false, refusals: 0 };
    const POST: Standing = Standing { idempotent: false, ..GET };

    #[test]
    fn what_was_not_taken_goes_elsewhere_whatever_the_method() {
        assert_eq!(after_loss(Loss::NotTaken, GET), Verdict::Elsewhere);
        assert_eq!(after_loss(Loss::NotTaken, POST), Verdict::Elsewhere);
    }

    #[test]
    fn what_was_taken_goes_elsewhere_once_if_that_is_safe() {
        assert_eq!(after_loss(Loss::Taken, GET), Verdict::Elsewhere);
        assert_eq!(after_loss(Loss::Taken, Standing { retried: true, ..GET }), Verdict::BadGateway);
        assert_eq!(after_loss(Loss::Taken, POST), Verdict::BadGateway);
        assert_eq!(after_loss(Loss::Taken, Standing { body_at_hand: false, ..GET }), Verdict::BadGateway);
    }

    #[test]
    fn a_begun_answer_is_never_begun_again() {
        assert_eq!(after_loss(Loss::NotTaken, Standing { answered: true, ..GET }), Verdict::Cut);
        assert_eq!(after_loss(Loss::Taken, Standing { answered: true, ..GET }), Verdict::Cut);
    }

    #[test]
    fn refusals_come_to_an_end() {
        let refused = Standing { refusals: REFUSALS_MAX, ..POST };
        assert_eq!(after_loss(Loss::NotTaken, refused), Verdict::Unavailable);
    }
}
