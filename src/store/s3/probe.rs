//! The start-up probe of a bucket: what would lose data or stop the work is found before it does.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule};
use bytes::Bytes;

use super::{
    Bucket,
    error::{NO_CODE, clocks_differ, code, failed, in_words, is_not_offered},
};
use crate::store::{Error, ErrorKind, Key, Prefix, Probe, PutOutcome, Result};

/// How far the clock here and the store's may be apart without a word.
const WARNED_APART: Duration = Duration::from_mins(1);

/// And at all: S3's own limit for the time of a signature.
const REFUSED_APART: Duration = Duration::from_mins(15);

/// Reads, writes and deletes one object, tries a create-only write, and looks at the bucket's rules.
pub(super) async fn probe(bucket: &Bucket, writer: &str) -> Result<Probe> {
    let list = bucket.client.list_objects_v2().bucket(&*bucket.name).prefix(&*bucket.prefix).max_keys(1);
    list.send().await.map_err(|failure| cannot(bucket, "list", "s3:ListBucket", failed(failure)))?;

    let key = Key::probe(writer);
    // Without s3:ListBucket, AWS says 403 of what is not there, and every miss would look like a fault.
    bucket.head(&key).await.map_err(|error| cannot(bucket, "read", "s3:GetObject and s3:ListBucket", error))?;
    let body = Bytes::from(format!("hubgate was here, {:?}\n", SystemTime::now()));
    bucket.put(&key, body.clone()).await.map_err(|error| cannot(bucket, "write", "s3:PutObject", error))?;
    let read = bucket.get(&key, 1024).await.map_err(|error| cannot(bucket, "read", "s3:GetObject", error))?;
    if read != Some(body.clone()) {
        return Err(misconfigured(bucket, "does not give back what was written: is a cache before it?"));
    }
    let mut warnings = Vec::new();
    // The client signs for the server's clock once it was refused, so that nothing else would show it.
    let written = bucket.head(&key).await.map_err(|error| cannot(bucket, "read", "s3:GetObject", error))?;
    warnings.extend(clock(SystemTime::now(), written.map(|object| object.modified))?);
    // A server may not know the condition; then it overwrites, or answers with an error of its own.
    let conditional_create = matches!(bucket.put_new(&key, &body).await, Ok(PutOutcome::Existed));
    bucket.delete(&key).await.map_err(|error| cannot(bucket, "delete", "s3:DeleteObject", error))?;

    lifecycle(bucket, &mut warnings).await?;
    versioning(bucket, &mut warnings).await?;
    Ok(Probe { conditional_create, warnings })
}

/// Judges the clock here by the time that the server gives an object of just now.
fn clock(ours: SystemTime, theirs: Option<SystemTime>) -> Result<Option<String>> {
    let Some(theirs) = theirs.filter(|theirs| *theirs != SystemTime::UNIX_EPOCH) else { return Ok(None) };
    let apart = ours.duration_since(theirs).unwrap_or_else(|later| later.duration());
    if apart > REFUSED_APART {
        return Err(Error::new(ErrorKind::Misconfigured(clocks_differ(ours, &in_words(theirs)))));
    }
    Ok((apart > WARNED_APART).then(|| {
        format!(
            "this machine's clock and the store's are {} s apart: times in the manifest and the end of an approval are \
             as wrong as the clock here",
            apart.as_secs()
        )
    }))
}

fn misconfigured(bucket: &Bucket, problem: &str) -> Error {
    Error::new(ErrorKind::Misconfigured(format!("bucket {:?} (store.s3.bucket) {problem}", bucket.name)))
}

/// Says what the credentials lack. What waiting may cure stays what it is.
fn cannot(bucket: &Bucket, what: &str, right: &str, error: Error) -> Error {
    match error.kind.clone() {
        ErrorKind::PermissionDenied => {
            let said = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
            let why = if said.contains("InvalidAccessKeyId") || said.contains("NotSignedUp") {
                "the server does not know store.s3.access_key".to_owned()
            } else if said.contains("SignatureDoesNotMatch") {
                "the secret (store.s3.secret_key or secret_key_file) is not that of store.s3.access_key".to_owned()
            } else {
                // Servers do not say that a bucket is missing to those who could not see it.
                let or = if what == "list" { ", or there is no such bucket" } else { "" };
                format!("the credentials lack {right}, or the bucket's policy refuses them{or}")
            };
            misconfigured(bucket, &format!("cannot be used to {what}: {why}")).caused_by(error)
        }
        ErrorKind::Misconfigured(problem) => {
            let mut named = misconfigured(bucket, &format!("cannot be used to {what}: {problem}"));
            named.source = error.source;
            named
        }
        ErrorKind::Other(said) if what == "list" && said.contains(NO_CODE) => {
            let problem = format!(
                "cannot be listed: what answers at store.s3.endpoint is no S3 server; is it the right port, and http or \
                 https as it speaks there? ({said})"
            );
            misconfigured(bucket, &problem)
        }
        ErrorKind::Other(said) if what == "write" && bucket.encryption.is_some() => {
            let problem =
                format!("cannot be written with the encryption of store.s3.sse and store.s3.kms_key_id ({said})");
            misconfigured(bucket, &problem)
        }
        _ => error,
    }
}

async fn lifecycle(bucket: &Bucket, warnings: &mut Vec<String>) -> Result<()> {
    let rules = match bucket.client.get_bucket_lifecycle_configuration().bucket(&*bucket.name).send().await {
        Ok(rules) => rules,
        Err(failure) if code(&failure) == Some("NoSuchLifecycleConfiguration") => return Ok(()),
        Err(failure) if code(&failure) == Some("AccessDenied") => {
            let unknown = "whether a lifecycle rule expires what is stored";
            warnings.push(unseen(bucket, "s3:GetLifecycleConfiguration", unknown));
            return Ok(());
        }
        // No such operation.
        Err(failure) if is_not_offered(&failure) => return Ok(()),
        Err(failure) => return Err(failed(failure)),
    };
    for rule in rules.rules() {
        match judged(rule, &bucket.prefix) {
            Verdict::Harmless => {}
            Verdict::Expires => {
                let problem = format!(
                    "has lifecycle rule {:?}, which expires objects below {:?}: stored files would vanish; narrow the \
                     rule's prefix or remove it",
                    rule.id().unwrap_or("(no id)"),
                    &*bucket.prefix
                );
                return Err(misconfigured(bucket, &problem));
            }
            Verdict::Moves => warnings.push(format!(
                "bucket {:?} has lifecycle rule {:?}, which moves objects to another storage class: what needs a \
                 restore before it can be read will fail",
                bucket.name,
                rule.id().unwrap_or("(no id)")
            )),
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Harmless,
    Expires,
    Moves,
}

/// What a rule does to what is ours. Ours have no tags, so a rule for tagged objects leaves them alone.
fn judged(rule: &LifecycleRule, ours: &str) -> Verdict {
    let filter = rule.filter();
    let both = filter.and_then(|filter| filter.and());
    let is_for_tags = filter.is_some_and(|filter| filter.tag().is_some()) || both.is_some_and(|b| !b.tags().is_empty());
    #[expect(deprecated, reason = "older servers and rules still have the prefix here")]
    let old = rule.prefix();
    let theirs = filter.and_then(|f| f.prefix()).or(both.and_then(|b| b.prefix())).or(old).unwrap_or_default();
    // Intents may expire: they tell of uploads that are over by then.
    let intents = format!("{ours}{}", Prefix::uploads().as_str());
    let meets = (theirs.starts_with(ours) && !theirs.starts_with(&intents)) || ours.starts_with(theirs);
    if rule.status() != &ExpirationStatus::Enabled || is_for_tags || !meets {
        Verdict::Harmless
    } else if rule.expiration().is_some_and(|expiry| expiry.days().is_some() || expiry.date().is_some()) {
        Verdict::Expires
    } else if rule.transitions().is_empty() {
        Verdict::Harmless
    } else {
        Verdict::Moves
    }
}

async fn versioning(bucket: &Bucket, warnings: &mut Vec<String>) -> Result<()> {
    match bucket.client.get_bucket_versioning().bucket(&*bucket.name).send().await {
        Ok(versioning) => {
            if versioning.status().is_some_and(|status| status.as_str() == "Enabled") {
                warnings.push(format!(
                    "bucket {:?} keeps old versions: what hubgate removes or overwrites still takes room, until a \
                     lifecycle rule for noncurrent versions removes it",
                    bucket.name
                ));
            }
            Ok(())
        }
        Err(failure) if code(&failure) == Some("AccessDenied") => {
            let unknown = "whether old versions of what hubgate removes go on taking room";
            warnings.push(unseen(bucket, "s3:GetBucketVersioning", unknown));
            Ok(())
        }
        Err(failure) if is_not_offered(&failure) => Ok(()),
        Err(failure) => Err(failed(failure)),
    }
}

/// The warning of a question that we may not ask.
fn unseen(bucket: &Bucket, right: &str, unknown: &str) -> String {
    format!("bucket {:?}: the credentials lack {right}, so it is not known {unknown}", bucket.name)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{
        LifecycleExpiration, LifecycleRuleAndOperator, LifecycleRuleFilter, Tag, Transition, TransitionStorageClass,
    };

    use super::*;

    fn expiring(prefix: &str) -> aws_sdk_s3::types::builders::LifecycleRuleBuilder {
        LifecycleRule::builder()
            .status(ExpirationStatus::Enabled)
            .expiration(LifecycleExpiration::builder().days(30).build())
            .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
    }

    #[test]
    fn a_clock_that_is_a_little_off_is_a_warning_and_one_far_off_an_error() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 50);
        let ahead = |secs| clock(now + Duration::from_secs(secs), Some(now));
        let behind = |secs| clock(now - Duration::from_secs(secs), Some(now));
        for small in [ahead(0), ahead(60), behind(60), clock(now, None), clock(now, Some(SystemTime::UNIX_EPOCH))] {
            assert_eq!(small.unwrap(), None);
        }
        for warned in [ahead(120), behind(900)] {
            assert!(warned.unwrap().unwrap().contains(" s apart"));
        }
        for far in [ahead(901), behind(7200)] {
            assert!(far.unwrap_err().to_string().contains("set the clock"));
        }
    }

    #[test]
    fn a_rule_that_would_expire_what_is_stored_is_found() {
        let cases = [
            ("", "hubgate/", Verdict::Expires),
            ("hub", "hubgate/", Verdict::Expires),
            ("hubgate/blobs/", "hubgate/", Verdict::Expires),
            ("hubgate/manifest/", "hubgate/", Verdict::Expires),
            ("logs/", "hubgate/", Verdict::Harmless),
            ("hubgate/uploads/", "hubgate/", Verdict::Harmless),
            ("logs/", "", Verdict::Expires),
            ("uploads/", "", Verdict::Harmless),
        ];
        for (theirs, ours, expected) in cases {
            assert_eq!(judged(&expiring(theirs).build().unwrap(), ours), expected, "{theirs:?} {ours:?}");
        }
    }

    #[test]
    fn a_rule_that_does_not_reach_our_objects_is_harmless() {
        let tag = Tag::builder().key("temp").value("yes").build().unwrap();
        let tagged = LifecycleRuleFilter::builder().tag(tag.clone()).build();
        let both = LifecycleRuleAndOperator::builder().prefix("").tags(tag).build();
        let harmless = [
            expiring("").status(ExpirationStatus::Disabled),
            expiring("").filter(tagged),
            expiring("").filter(LifecycleRuleFilter::builder().and(both).build()),
            expiring("").expiration(LifecycleExpiration::builder().expired_object_delete_marker(true).build()),
        ];
        for rule in harmless {
            let rule = rule.build().unwrap();
            assert_eq!(judged(&rule, "hubgate/"), Verdict::Harmless, "{rule:?}");
        }
        let glacier = Transition::builder().days(1).storage_class(TransitionStorageClass::Glacier).build();
        let moving = LifecycleRule::builder().status(ExpirationStatus::Enabled).transitions(glacier);
        assert_eq!(judged(&moving.build().unwrap(), "hubgate/"), Verdict::Moves);
    }
}
