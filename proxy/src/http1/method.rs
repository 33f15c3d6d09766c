//! Methods: which are known, and which may safely be tried twice.

/// The methods registered with IANA for HTTP; anything else is 501 (RFC 9110, 9.1). CONNECT is not among them: this
/// is an origin server, not a tunnel.
const KNOWN: [&str; 38] = [
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "QUERY",
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// Whether we pass this method on. Methods are case-sensitive.
#[must_use]
pub fn is_known(method: &str) -> bool {
    KNOWN.contains(&method)
}

/// RFC 9110, 9.2.2: sending it twice has the effect of sending it once. Those of RFC 9110, and those that are registered
/// as safe; of the others that only WebDAV has nobody is sure that they are.
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE" | "QUERY" | "PROPFIND" | "REPORT" | "SEARCH"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive_tokens() {
        assert!(is_known("GET") && is_known("PROPFIND"));
        assert!(!is_known("get") && !is_known("FROBNICATE") && !is_known("CONNECT"));
    }

    #[test]
    fn only_methods_that_may_be_repeated_are_idempotent() {
        assert!(is_idempotent("PUT") && !is_idempotent("POST") && !is_idempotent("PATCH"));
        assert!(is_idempotent("QUERY") && is_idempotent("PROPFIND") && !is_idempotent("LOCK"));
    }
}
