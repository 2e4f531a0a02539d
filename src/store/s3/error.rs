//! What S3 servers answer, in the store's words. The codes differ between servers; where there is no code
//! (an answer to HEAD has no body) the status decides.

use std::time::SystemTime;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::trust;
use crate::store::{Error, ErrorKind};

/// What stands for the code of an answer that has none, as that of no S3 server.
pub(super) const NO_CODE: &str = "(no code)";

/// The error of an operation.
pub(super) type Failure<E> = SdkError<E, HttpResponse>;

/// Whether the answer says that there is no such object. A bucket that is missing is something else.
pub(super) fn is_not_found<E: ProvideErrorMetadata>(failure: &Failure<E>) -> bool {
    match code(failure) {
        Some("NoSuchKey" | "NotFound" | "NoSuchVersion" | "NoSuchUpload") => true,
        None => status(failure) == Some(404),
        Some(_) => false,
    }
}

/// Whether the answer says that a condition of the request does not hold.
pub(super) fn is_precondition_failed<E: ProvideErrorMetadata>(failure: &Failure<E>) -> bool {
    code(failure) == Some("PreconditionFailed") || status(failure) == Some(412)
}

/// Whether the server has no such operation, or does not let us use it.
pub(super) fn is_not_offered<E: ProvideErrorMetadata>(failure: &Failure<E>) -> bool {
    matches!(status(failure), Some(400 | 403 | 405 | 500 | 501))
}

/// Whether nothing has come of the request: it never left, or the server said no. Not so when the answer was
/// lost, or says that the server is in trouble.
pub(super) fn is_refused<E>(failure: &Failure<E>) -> bool {
    match failure {
        SdkError::ConstructionFailure(_) => true,
        SdkError::ServiceError(_) => status(failure).is_some_and(|status| (400..500).contains(&status)),
        _ => false,
    }
}

/// The code of the answer, if it has one.
pub(super) fn code<E: ProvideErrorMetadata>(failure: &Failure<E>) -> Option<&str> {
    failure.as_service_error().and_then(|error| error.code())
}

fn status<E>(failure: &Failure<E>) -> Option<u16> {
    failure.raw_response().map(|response| response.status().as_u16())
}

/// The failure as the store tells it.
#[expect(clippy::needless_pass_by_value, reason = "made for map_err")]
pub(super) fn failed<E>(failure: Failure<E>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let said = match &failure {
        SdkError::ServiceError(_) => answer(&failure),
        _ => causes(&failure),
    };
    Error::new(kind(&failure)).caused_by(said)
}

/// What the server said: `403 AccessDenied: Access Denied.`
fn answer<E: ProvideErrorMetadata>(failure: &Failure<E>) -> String {
    let status = status(failure).map(|status| status.to_string()).unwrap_or_default();
    let message = failure.as_service_error().and_then(|error| error.message()).unwrap_or("(no message)");
    format!("{status} {}: {message}", code(failure).unwrap_or(NO_CODE))
}

/// A failure and its causes in one line: the SDK's own `Display` says only "dispatch failure".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn kind<E>(failure: &Failure<E>) -> ErrorKind
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match failure {
        SdkError::TimeoutError(_) => ErrorKind::Unreachable,
        SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) => undelivered(failure),
        _ => answered(failure),
    }
}

/// The request got no answer.
fn undelivered<E>(failure: &Failure<E>) -> ErrorKind
where
    E: std::error::Error + Send + Sync + 'static,
{
    let text = causes(failure);
    if text.contains("invalid peer certificate") {
        return ErrorKind::Misconfigured(format!(
            "the server's certificate is not trusted: {} ({})",
            trust::remedy(),
            first_with(&text, "invalid peer certificate")
        ));
    }
    if text.contains("InvalidContentType") {
        return ErrorKind::Misconfigured("the server does not speak https: correct store.s3.endpoint".into());
    }
    // A service that gives credentials and fails, or does not answer yet, is waited for as the bucket itself is.
    if let Some(CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_)) =
        credentials_error(failure)
    {
        return ErrorKind::Misconfigured(format!(
            "no credentials for the bucket: set store.s3.access_key and store.s3.secret_key_file, or give the process \
             a role ({})",
            first_with(&text, "redentials")
        ));
    }
    ErrorKind::Unreachable
}

/// What kept the client from having credentials, if that is the cause.
fn credentials_error<'a>(failure: &'a (dyn std::error::Error + 'static)) -> Option<&'a CredentialsError> {
    std::iter::successors(Some(failure), |error| error.source()).find_map(|error| error.downcast_ref())
}

/// The first part of a chain of causes that has `word`.
fn first_with<'a>(text: &'a str, word: &str) -> &'a str {
    text.split(": ").find(|part| part.contains(word)).unwrap_or(text)
}

fn answered<E: ProvideErrorMetadata>(failure: &Failure<E>) -> ErrorKind {
    match code(failure) {
        Some("NoSuchBucket") => {
            ErrorKind::Misconfigured("the bucket is not there: create it, or correct store.s3.bucket".into())
        }
        Some("InvalidBucketName") => {
            ErrorKind::Misconfigured("the server has no buckets of such a name: correct store.s3.bucket".into())
        }
        Some("RequestTimeTooSkewed") => ErrorKind::Misconfigured(skew(failure, SystemTime::now())),
        Some(
            "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraint",
        ) => ErrorKind::Misconfigured(format!(
            "the bucket is in another region: correct store.s3.region or store.s3.endpoint ({})",
            answer(failure)
        )),
        Some(
            "AccessDenied"
            | "AccountProblem"
            | "AllAccessDisabled"
            | "ExpiredToken"
            | "InvalidAccessKeyId"
            | "InvalidToken"
            | "SignatureDoesNotMatch"
            | "TokenRefreshRequired"
            | "Unauthorized",
        ) => ErrorKind::PermissionDenied,
        Some("QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage") => {
            ErrorKind::Full("the bucket (store.s3.bucket) or its server is full".into())
        }
        Some(
            // What we sent was altered on its way.
            "BadDigest"
            | "ConditionalRequestConflict"
            | "InternalError"
            | "OperationAborted"
            | "RequestTimeout"
            | "ServiceUnavailable"
            | "SlowDown"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests"
            | "XMinioServerNotInitialized",
        ) => ErrorKind::Busy,
        _ => match status(failure) {
            Some(401 | 403) => ErrorKind::PermissionDenied,
            Some(507) => ErrorKind::Full("the bucket (store.s3.bucket) or its server is full".into()),
            Some(408 | 429 | 500 | 502 | 503 | 504) => ErrorKind::Busy,
            _ => ErrorKind::Other(answer(failure)),
        },
    }
}

fn skew<E>(failure: &Failure<E>, now: SystemTime) -> String {
    clocks_differ(now, failure.raw_response().and_then(|response| response.headers().get("date")).unwrap_or("unknown"))
}

/// That the clock here and the store's, which says `theirs`, differ too much.
pub(super) fn clocks_differ(ours: SystemTime, theirs: &str) -> String {
    format!(
        "this machine's clock and the store's differ too much: here it is {}, there {theirs}; set the clock",
        in_words(ours)
    )
}

/// A time as people write it.
pub(super) fn in_words(time: SystemTime) -> String {
    let form = time::format_description::well_known::Rfc2822;
    time::OffsetDateTime::from(time).format(&form).unwrap_or_else(|_| "unknown".into())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::{
        config::http::HttpResponse, error::ErrorMetadata, operation::get_object::GetObjectError, primitives::SdkBody,
    };

    use super::*;

    fn answered_with(status: u16, code: Option<&str>) -> Failure<GetObjectError> {
        let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        response.headers_mut().insert("date", "Mon, 23 Nov 2026 03:00:00 GMT");
        let metadata = ErrorMetadata::builder();
        let metadata = match code {
            Some(code) => metadata.code(code).message("words"),
            None => metadata,
        };
        SdkError::service_error(GetObjectError::generic(metadata.build()), response)
    }

    #[test]
    fn only_a_missing_object_is_not_found() {
        for code in [Some("NoSuchKey"), Some("NotFound"), None] {
            assert!(is_not_found(&answered_with(404, code)), "{code:?}");
        }
        assert!(!is_not_found(&answered_with(404, Some("NoSuchBucket"))));
        assert!(!is_not_found(&answered_with(403, Some("AccessDenied"))));
    }

    #[test]
    fn only_a_clear_no_is_a_refusal() {
        assert!(is_refused(&answered_with(403, Some("AccessDenied"))));
        assert!(!is_refused(&answered_with(500, Some("InternalError"))));
        assert!(!is_refused(&answered_with(503, Some("SlowDown"))));
        assert!(!is_refused::<GetObjectError>(&SdkError::timeout_error("no answer")));
        assert!(is_refused::<GetObjectError>(&SdkError::construction_failure("no request")));
    }

    #[test]
    fn codes_become_what_a_caller_can_act_on() {
        let cases = [
            (403, Some("SignatureDoesNotMatch"), ErrorKind::PermissionDenied),
            (403, None, ErrorKind::PermissionDenied),
            (503, Some("SlowDown"), ErrorKind::Busy),
            (503, Some("AnotherWord"), ErrorKind::Busy),
            (429, None, ErrorKind::Busy),
            (
                507,
                Some("XMinioStorageFull"),
                ErrorKind::Full("the bucket (store.s3.bucket) or its server is full".into()),
            ),
            (418, Some("Teapot"), ErrorKind::Other("418 Teapot: words".into())),
        ];
        for (status, code, expected) in cases {
            assert_eq!(failed(answered_with(status, code)).kind, expected, "{status} {code:?}");
        }
    }

    #[test]
    fn no_credentials_are_a_setup_error_and_a_service_that_does_not_give_them_yet_is_waited_for() {
        let kind = |error| failed(SdkError::<GetObjectError, _>::construction_failure(error)).kind;
        for ours in [
            CredentialsError::not_loaded("no providers in chain provided credentials"),
            CredentialsError::invalid_configuration("store.s3.secret_key_file /nowhere: no such file"),
        ] {
            let kind = kind(ours);
            assert!(matches!(&kind, ErrorKind::Misconfigured(what) if what.contains("store.s3.access_key")), "{kind}");
        }
        for theirs in [
            CredentialsError::provider_error("web identity: the service answered 503"),
            CredentialsError::provider_timed_out(std::time::Duration::from_secs(5)),
            CredentialsError::unhandled("an answer that makes no sense"),
        ] {
            assert_eq!(kind(theirs), ErrorKind::Unreachable);
        }
        let timed_out: Failure<GetObjectError> = SdkError::construction_failure("identity resolver timed out after 5s");
        assert_eq!(failed(timed_out).kind, ErrorKind::Unreachable);
    }

    #[test]
    fn a_wrong_clock_is_told_with_both_times() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_hours(24);
        let text = skew(&answered_with(403, Some("RequestTimeTooSkewed")), now);
        assert!(text.contains("Fri, 02 Jan 1970 00:00:00 +0000"), "{text}");
        assert!(text.contains("Mon, 23 Nov 2026 03:00:00 GMT"), "{text}");
        assert!(matches!(failed(answered_with(403, Some("RequestTimeTooSkewed"))).kind, ErrorKind::Misconfigured(_)));
    }
}
