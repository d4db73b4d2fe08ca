//! Modules that read the files as they come, or some of them.

use std::fs;

use super::module::Module;
use crate::story::until;

/// As modules do that write a partition: one file after the other, until nothing comes.
const READS: &str = "while read -r name size < stream-next; do [ -n \"$name\" ] || break; \
                     echo \"$name $size $(sha256sum < $name | head -c 64)\" >> ../read; done; \
                     touch tmp/read";
/// They find nothing in `files`.
const TAKES: &str = "[ ! -e files ] && [ ! -e streams ] && [ ! -e stream-next ] || exit 7; mkdir files; \
                     echo streamed > files/version";

#[tokio::test]
async fn a_module_may_read_the_files_as_they_come() {
    let module = Module::begin("").await;
    let _agent = module.story.online().await;
    let large = "0123456789abcdef".repeat(40_000);
    for (at, (sizes, answer)) in [(true, "Yes"), (false, "No")].into_iter().enumerate() {
        module.says("ProvidePayloadFileSizes", answer);
        let verb = if sizes { "DownloadWithFileSizes" } else { "Download" };
        module.does(verb, READS);
        module.does("ArtifactInstall", TAKES);
        let version = format!("1.{at}.0");
        let package = module.package(&version, &[("empty", ""), ("large", &large)]);
        let read = module.story.home.path().join("state/update/read");
        fs::remove_file(&read).ok();
        let end = module.story.update(&version, &version, &package).await;
        assert_eq!(end["state"], "success", "{end} {:?}", module.asked());
        assert!(module.asked().iter().any(|asked| asked == verb));
        let digest = |text: &str| crate::story::sha256(text.as_bytes());
        let size = |bytes: usize| if sizes { bytes.to_string() } else { String::new() };
        let wanted = [
            format!("streams/empty {} {}", size(0), digest("")),
            format!("streams/large {} {}", size(large.len()), digest(&large)),
            format!("streams/version {} {}", size(version.len()), digest(&version)),
        ];
        assert_eq!(fs::read_to_string(&read).unwrap().lines().collect::<Vec<_>>(), wanted);
        assert_eq!(module.installed().as_deref(), Some("streamed\n"));
        until("it is cleaned up", || !module.tree().exists()).await;
        module.forget();
    }
}

/// One that begins to read has to read everything; one that does not end then is ended.
#[tokio::test]
async fn a_module_that_reads_half_has_failed() {
    let module = Module::begin("").await;
    let _agent = module.story.online().await;
    let large = "0123456789abcdef".repeat(40_000);
    for (at, (script, said)) in [
        ("head -c 10 $(cat stream-next) > /dev/null", "module stopped reading streams/large before its end"),
        ("cat stream-next", "before it had read everything"),
        ("cat $(cat stream-next) > /dev/null; exit 5", "Download of the module ended with exit code 5"),
        (
            "head -c 10 $(cat stream-next) > /dev/null; sleep 600",
            "stopped reading streams/large before its end",
        ),
        ("exit 6", "Download of the module ended with exit code 6"),
    ]
    .into_iter()
    .enumerate()
    {
        module.forget();
        module.does("Download", script);
        let version = format!("1.{at}.0");
        let package = module.package(&version, &[("large", &large)]);
        let end = module.story.update(&version, &version, &package).await;
        assert_eq!(end["state"], "failed", "{script}: {end}");
        assert!(end["error"].as_str().unwrap().contains(said), "{script}: {end}");
        until("it is cleaned up", || !module.tree().exists()).await;
        assert_eq!(module.asked(), ["ProvidePayloadFileSizes", "Download", "Cleanup"], "{script}");
        assert_eq!(module.installed(), None);
    }
}
