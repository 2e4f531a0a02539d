//! The repos that most tests need: one of each kind, and one for each answer that a policy can meet.

use serde_json::json;

use crate::content::Content;
use crate::describe::{NewCommit, RepoBuilder};
use crate::repo::Gated;

const GIT_ATTRIBUTES: &str = "\
*.bin filter=lfs diff=lfs merge=lfs -text
*.parquet filter=lfs diff=lfs merge=lfs -text
*.safetensors filter=lfs diff=lfs merge=lfs -text
";

/// | repo | what it is |
/// |---|---|
/// | `acme/tiny` | a BERT of a few kilobytes that transformers loads; three commits, tag `v1.0`, branches `dev` and `feature/x`, `refs/pr/1`; formerly `tiny` and `acme/small`; apache-2.0 |
/// | `acme/nested` | like it, with weights for a second model in a folder; mit |
/// | `acme/list-license` | `license: [mit, apache-2.0]` |
/// | `acme/other-license` | `license: other`, `license_name: acme-research-1.0` |
/// | `acme/no-license`, `acme/no-readme` | none stated |
/// | `acme/noncommercial` | cc-by-nc-4.0 |
/// | `acme/disagree` | the README says mit, the API apache-2.0 |
/// | `acme/only-pickles` | weights only as `pytorch_model.bin` and `model.pkl` |
/// | `acme/copy` | the same `model.safetensors` as `acme/tiny` |
/// | `acme/old-lfs` | LFS from before Xet |
/// | `acme/gated`, `acme/private`, `acme/disabled` | as they say; the default token has access |
/// | `datasets/acme/table` | csv (and a parquet file), `refs/convert/parquet`; cc-by-4.0 |
/// | `datasets/acme/columns` | parquet alone; mit |
/// | `datasets/squid` | a one-label id; mit |
/// | `spaces/acme/demo` | a static space; mit |
pub fn fixtures() -> Vec<RepoBuilder> {
    let readme = |license: &str| format!("---\nlicense: {license}\n---\n# Fixture\n");
    let small = |id: &str, readme: &str| {
        let commit = NewCommit::new("Upload model").file(".gitattributes", GIT_ATTRIBUTES).file("README.md", readme);
        RepoBuilder::model(id).commit(commit.file("config.json", CONFIG).lfs("model.safetensors", noise(id)))
    };
    let no_readme =
        NewCommit::new("Upload model").file("config.json", CONFIG).lfs("model.safetensors", noise("no-readme"));
    let pickles = NewCommit::new("Upload model")
        .file("README.md", readme("mit"))
        .file("config.json", CONFIG)
        .lfs("pytorch_model.bin", noise("bin"))
        .lfs("model.pkl", noise("pkl"));
    let copy = NewCommit::new("Copy").file("README.md", readme("apache-2.0")).file("model.safetensors", WEIGHTS);
    vec![
        tiny(),
        nested(),
        small("acme/list-license", "---\nlicense:\n- mit\n- apache-2.0\n---\n"),
        small(
            "acme/other-license",
            "---\nlicense: other\nlicense_name: acme-research-1.0\nlicense_link: LICENSE\n---\n",
        ),
        small("acme/no-license", "---\ntags:\n- test\n---\n# No licence\n"),
        RepoBuilder::model("acme/no-readme").commit(no_readme),
        small("acme/noncommercial", &readme("cc-by-nc-4.0")),
        small("acme/disagree", &readme("mit")).with(|repo| {
            repo.card = Some(json!({ "license": "apache-2.0" }));
            repo.tags = Some(vec!["license:apache-2.0".into(), "region:us".into()]);
        }),
        RepoBuilder::model("acme/only-pickles").commit(pickles),
        RepoBuilder::model("acme/copy").commit(copy),
        RepoBuilder::model("acme/old-lfs").without_xet().commit(
            NewCommit::new("Upload model").file("README.md", readme("mit")).lfs("model.safetensors", noise("old-lfs")),
        ),
        small("acme/gated", &readme("mit")).gated(Gated::Manual),
        small("acme/private", &readme("mit")).private(),
        small("acme/disabled", &readme("mit")).disabled(),
        table(),
        columns(),
        RepoBuilder::dataset("squid")
            .commit(NewCommit::new("Add data").file("README.md", readme("mit")).file("data/train.csv", CSV)),
        RepoBuilder::space("acme/demo").commit(
            NewCommit::new("Add space")
                .file("README.md", "---\ntitle: Demo\nsdk: static\nlicense: mit\n---\n")
                .file("index.html", "<!DOCTYPE html><title>Demo</title>\n"),
        ),
    ]
}

const CONFIG: &[u8] = include_bytes!("../fixtures/tiny/config.json");
const WEIGHTS: &[u8] = include_bytes!("../fixtures/tiny/model.safetensors");
const CSV: &[u8] = include_bytes!("../fixtures/table/train.csv");

/// A few kilobytes that differ from one name to the next.
fn noise(name: &str) -> Content {
    let seed = name.bytes().fold(17_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Content::generated(5000, seed)
}

fn tiny() -> RepoBuilder {
    let readme = "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: feature-extraction\nlanguage: en\n\
                  tags:\n- test\n---\n# tiny\n\nA model that is only good for tests.\n";
    let first = NewCommit::new("initial commit").file(".gitattributes", GIT_ATTRIBUTES);
    let second = NewCommit::new("Add model")
        .file("README.md", readme)
        .file("config.json", CONFIG)
        .file("tokenizer.json", &include_bytes!("../fixtures/tiny/tokenizer.json")[..])
        .file("tokenizer_config.json", &include_bytes!("../fixtures/tiny/tokenizer_config.json")[..])
        .file("model.safetensors", WEIGHTS);
    let third = NewCommit::new("Add odd files")
        .file("empty.txt", "")
        .file("sub/dir/weights.bin", Content::generated(3_000_000, 7))
        .file("sub/dir/notes.txt", "Notes of a folder.\n")
        .file("sub dir/filé #1 100%.txt", "A file with an awkward name.\n");
    RepoBuilder::model("acme/tiny")
        .alias("tiny")
        .alias("acme/small")
        .commit(first)
        .commit(second)
        .tag("v1.0")
        .commit(third)
        .branch("feature/x")
        .on("dev")
        .commit(NewCommit::new("Work in progress").file("notes.txt", "Not finished.\n"))
        .on("refs/pr/1")
        .commit(
            NewCommit::new("Suggest a change").file("config.json", "{\"model_type\": \"bert\", \"changed\": true}\n"),
        )
}

fn nested() -> RepoBuilder {
    let commit = NewCommit::new("Add model")
        .file(".gitattributes", GIT_ATTRIBUTES)
        .file("README.md", "---\nlicense: mit\n---\n# nested\n")
        .file("config.json", CONFIG)
        .file("model.safetensors", Content::generated(2_500_000, 11))
        .file("onnx/model.onnx", Content::generated(1_500_000, 12))
        .file("onnx/config.json", CONFIG);
    RepoBuilder::model("acme/nested").commit(commit)
}

const PARQUET: &[u8] = include_bytes!("../fixtures/table/train.parquet");

fn table() -> RepoBuilder {
    // The parquet file is left out of the configuration: `datasets` reads one format in a repo.
    let readme = "---\nlicense: cc-by-4.0\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.csv\n---\n";
    RepoBuilder::dataset("acme/table")
        .commit(NewCommit::new("initial commit").file(".gitattributes", GIT_ATTRIBUTES).file("README.md", readme))
        .commit(NewCommit::new("Add data").file("data/train.csv", CSV).file("data/train.parquet", PARQUET))
        .on("refs/convert/parquet")
        .commit(NewCommit::new("Convert").file("default/train/0000.parquet", PARQUET))
}

fn columns() -> RepoBuilder {
    let commit = NewCommit::new("Add data").file("README.md", "---\nlicense: mit\n---\n# columns\n");
    RepoBuilder::dataset("acme/columns").commit(commit.file("data/train-00000-of-00001.parquet", PARQUET))
}
