//! The start-up probe of a bucket: what would lose data or stop the work is found before it does.

use std::time::SystemTime;

use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule};
use bytes::Bytes;

use super::{
    Bucket,
    error::{failed, is_not_offered},
};
use crate::store::{Error, ErrorKind, Key, Prefix, Probe, PutOutcome, Result};

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
    // A server may not know the condition; then it overwrites, or answers with an error of its own.
    let conditional_create = matches!(bucket.put_new(&key, &body).await, Ok(PutOutcome::Existed));
    bucket.delete(&key).await.map_err(|error| cannot(bucket, "delete", "s3:DeleteObject", error))?;

    let mut warnings = Vec::new();
    lifecycle(bucket, &mut warnings).await?;
    versioning(bucket, &mut warnings).await?;
    Ok(Probe { conditional_create, warnings })
}

fn misconfigured(bucket: &Bucket, problem: &str) -> Error {
    Error::new(ErrorKind::Misconfigured(format!("bucket {:?} (store.s3.bucket) {problem}", bucket.name)))
}

/// Says what the credentials lack. What waiting may cure stays what it is.
fn cannot(bucket: &Bucket, what: &str, right: &str, error: Error) -> Error {
    match error.kind {
        ErrorKind::PermissionDenied => {
            let said = error.source.as_ref().map(ToString::to_string).unwrap_or_default();
            let why = if said.contains("InvalidAccessKeyId") || said.contains("NotSignedUp") {
                "the server does not know store.s3.access_key".to_owned()
            } else if said.contains("SignatureDoesNotMatch") {
                "the secret (store.s3.secret_key or secret_key_file) is not that of store.s3.access_key".to_owned()
            } else {
                format!("the credentials lack {right}, or the bucket's policy refuses them")
            };
            misconfigured(bucket, &format!("cannot be used to {what}: {why}")).caused_by(error)
        }
        ErrorKind::Misconfigured(problem) => {
            let mut named = misconfigured(bucket, &format!("cannot be used to {what}: {problem}"));
            named.source = error.source;
            named
        }
        _ => error,
    }
}

async fn lifecycle(bucket: &Bucket, warnings: &mut Vec<String>) -> Result<()> {
    let rules = match bucket.client.get_bucket_lifecycle_configuration().bucket(&*bucket.name).send().await {
        Ok(rules) => rules,
        // No rules, no such operation, or no right to see them.
        Err(failure) if super::code(&failure) == Some("NoSuchLifecycleConfiguration") => return Ok(()),
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
        Err(failure) if is_not_offered(&failure) => Ok(()),
        Err(failure) => Err(failed(failure)),
    }
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
