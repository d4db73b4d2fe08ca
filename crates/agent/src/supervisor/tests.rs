use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::*;
use crate::{
    config::{self, Qos, Sources, Topic},
    harness::Harness,
    service::Service,
};

const NAMES: [&str; 2] = ["first", "second"];
static BOTH: [Entry; 2] = [Entry::of::<Unruly<0>>(), Entry::of::<Unruly<1>>()];
/// Longer than any back-off.
const LONG: Duration = Duration::from_secs(120);

/// How a service of these tests behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// Runs until its shutdown.
    #[default]
    Steady,
    Fails,
    Panics,
    /// Cannot even be made; what checks the configuration beforehand does not see it.
    PanicsAtOnce,
    /// Ends although nobody asked.
    Returns,
    /// Promises a sign of progress and never gives it.
    Hangs,
    /// Works, and does not hear its shutdown.
    Deaf,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    way: Way,
    /// A filter it claims.
    topic: Option<Topic>,
    /// Any other setting.
    other: u64,
}

struct Unruly<const N: usize> {
    config: Config,
    ctx: Context,
    _inbox: Option<crate::mqtt::Inbox>,
}

impl<const N: usize> Service for Unruly<N> {
    const NAME: &'static str = NAMES[N];
    const ENABLED: bool = true;
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        // A runtime's task: checking has none.
        assert!(config.way != Way::PanicsAtOnce || tokio::task::try_id().is_none(), "at the outset");
        let inbox = config.topic.as_deref().map(|topic| ctx.claim(topic, Qos::AtLeastOnce, 1));
        Ok(Self { config, ctx, _inbox: inbox })
    }

    async fn run(self) -> anyhow::Result<()> {
        match self.config.way {
            Way::Steady => self.ctx.shutdown.cancelled().await,
            Way::Fails => anyhow::bail!("no luck"),
            Way::Panics => panic!("at the disco"),
            Way::Returns | Way::PanicsAtOnce => {}
            Way::Hangs => {
                self.ctx.progress(Duration::from_secs(5));
                std::future::pending().await
            }
            Way::Deaf => std::future::pending().await,
        }
        Ok(())
    }
}

/// The sections of a configuration with these services.
fn services(text: &str) -> Services {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, format!("mqtt: {{broker: mqtts://localhost}}\nservices: {text}\n")).unwrap();
    let sources = Sources { file, ..Sources::default() };
    config::load(&sources, &BOTH.map(|entry| entry.schema)).unwrap().config.services
}

fn start(world: &Harness, text: &str) -> Supervisor {
    let (shared, mqtt) = (Arc::clone(&world.shared), world.mqtt.clone());
    Supervisor::start_of(&BOTH, shared, mqtt, &services(text)).unwrap()
}

fn line(world: &Harness, name: &str) -> (ServiceState, String, u64) {
    let line = world.shared.board.all()[name].clone();
    (line.state, line.detail.unwrap_or_default(), line.restarts)
}

/// Lets time pass while the supervisor keeps its watch, as the agent does.
async fn pass(supervisor: &Supervisor, time: Duration) {
    tokio::select! {
        () = supervisor.watch() => {}
        () = tokio::time::sleep(time) => {}
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_one_does_it_is_started_anew_and_the_other_goes_on() {
    for (way, reason) in [
        ("fails", "no luck"),
        ("panics", "panicked: at the disco"),
        ("panics_at_once", "panicked: at the outset"),
        ("returns", "ended by itself"),
    ] {
        let world = Harness::new();
        let mut supervisor = start(&world, &format!("{{first: {{way: {way}}}}}"));
        pass(&supervisor, Duration::from_millis(1)).await;
        assert_eq!(line(&world, "first"), (ServiceState::Restarting, reason.into(), 1));
        pass(&supervisor, Duration::from_secs(600)).await;
        let (_, _, restarts) = line(&world, "first");
        assert!((15..40).contains(&restarts), "{way}: backs off, and never gives up: {restarts}");
        assert_eq!(line(&world, "second"), (ServiceState::Running, String::new(), 0));
        assert_eq!(supervisor.drain(Duration::from_secs(1)).await, <[&str; 0]>::default());
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_started_anew_when_its_promise_is_broken() {
    let world = Harness::new();
    let mut supervisor = start(&world, "{first: {way: hangs}}");
    pass(&supervisor, Duration::from_millis(4_900)).await;
    assert_eq!(line(&world, "first"), (ServiceState::Running, String::new(), 0));
    pass(&supervisor, Duration::from_millis(200)).await;
    assert_eq!(line(&world, "first"), (ServiceState::Restarting, "was hanging".into(), 1));
    pass(&supervisor, LONG).await;
    let (_, _, restarts) = line(&world, "first");
    assert!(restarts > 2, "again and again: {restarts}");
    assert_eq!(line(&world, "second"), (ServiceState::Running, String::new(), 0));
    // It does not hear its shutdown, unless it just waits to be started again.
    let hears = line(&world, "first").0 == ServiceState::Restarting;
    let stuck = supervisor.drain(Duration::from_secs(1)).await;
    assert_eq!(stuck, if hears { vec![] } else { vec!["first"] });
}

#[tokio::test(start_paused = true)]
async fn one_that_ignores_its_shutdown_is_named_and_left_behind() {
    let world = Harness::new();
    let mut supervisor = start(&world, "{second: {way: deaf}}");
    pass(&supervisor, Duration::from_secs(1)).await;
    let began = Instant::now();
    assert_eq!(supervisor.drain(Duration::from_secs(2)).await, ["second"]);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(line(&world, "first").0, ServiceState::Off);
}

#[tokio::test(start_paused = true)]
async fn a_reload_touches_only_what_changed() {
    let world = Harness::new();
    let mut supervisor = start(&world, "{first: {other: 1}, second: {way: fails}}");
    pass(&supervisor, LONG).await;
    let before = line(&world, "second");
    let changed = supervisor.reload(&services("{first: {other: 2}, second: {way: fails}}")).await.unwrap();
    assert_eq!(changed, ["first"]);
    assert_eq!(line(&world, "second"), before);
    assert_eq!(line(&world, "first"), (ServiceState::Running, String::new(), 0), "asked for: no restart");

    let off = "{first: {enabled: false}, second: {way: fails}}";
    assert_eq!(supervisor.reload(&services(off)).await.unwrap(), ["first"]);
    assert_eq!(line(&world, "first").0, ServiceState::Off);
    assert_eq!(supervisor.reload(&services(off)).await.unwrap(), <[&str; 0]>::default());
    assert_eq!(supervisor.reload(&services("{second: {way: fails}}")).await.unwrap(), ["first"]);
    pass(&supervisor, Duration::from_millis(1)).await;
    assert_eq!(line(&world, "first").0, ServiceState::Running);
}

/// Both take their time, and together no longer than one.
#[tokio::test(start_paused = true)]
async fn deaf_ones_delay_a_reload_by_one_handover() {
    let world = Harness::new();
    let mut supervisor = start(&world, "{first: {way: deaf}, second: {way: deaf}}");
    pass(&supervisor, Duration::from_secs(1)).await;
    let began = Instant::now();
    assert_eq!(supervisor.reload(&services("{}")).await.unwrap(), NAMES);
    assert_eq!(began.elapsed(), HANDOVER);
    pass(&supervisor, Duration::from_millis(1)).await;
    assert_eq!(supervisor.drain(Duration::from_secs(1)).await, <[&str; 0]>::default(), "the new ones hear");
}

/// SIGTERM does not wait for a reload.
#[tokio::test(start_paused = true)]
async fn a_reload_that_is_given_up_leaves_nothing_unwatched() {
    let world = Harness::new();
    let mut supervisor = start(&world, "{first: {way: deaf}, second: {other: 1}}");
    pass(&supervisor, Duration::from_secs(1)).await;
    let next = services("{first: {way: deaf, other: 2}, second: {other: 2}}");
    let given_up = tokio::time::timeout(Duration::from_millis(100), supervisor.reload(&next)).await;
    assert!(given_up.is_err());
    assert_eq!(supervisor.drain(Duration::from_secs(2)).await, ["first"]);
}

/// What is claimed no more is unsubscribed: else its messages would wait at the broker for ever.
#[tokio::test(start_paused = true)]
async fn a_claim_ends_with_its_section() {
    let world = Harness::new();
    let mut supervisor = start(&world, "{first: {topic: a/b}}");
    pass(&supervisor, Duration::from_millis(1)).await;
    let claimed = || (world.mqtt.has_claim("a/b"), world.mqtt.has_claim("c/d"));
    assert_eq!(claimed(), (true, false));
    supervisor.reload(&services("{first: {topic: a/b, other: 1}}")).await.unwrap();
    pass(&supervisor, Duration::from_millis(1)).await;
    assert_eq!(claimed(), (true, false), "the same topic again");
    supervisor.reload(&services("{first: {topic: c/d}}")).await.unwrap();
    pass(&supervisor, Duration::from_millis(1)).await;
    assert_eq!(claimed(), (false, true));
    supervisor.reload(&services("{first: {enabled: false}}")).await.unwrap();
    assert_eq!(claimed(), (false, false));
}

#[tokio::test(start_paused = true)]
async fn a_section_that_cannot_work_changes_nothing() {
    let world = Harness::new();
    let mut supervisor = start(&world, "{first: {topic: a/b}}");
    pass(&supervisor, Duration::from_millis(1)).await;
    assert!(supervisor.reload(&unreadable()).await.is_err());
    pass(&supervisor, Duration::from_millis(1)).await;
    assert_eq!(line(&world, "first"), (ServiceState::Running, String::new(), 0));
    assert_eq!(line(&world, "second"), (ServiceState::Running, String::new(), 0));
}

/// Sections of a registry that knows only one of the two.
fn unreadable() -> Services {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.yaml");
    std::fs::write(&file, "mqtt: {broker: mqtts://localhost}\nservices: {first: {other: 3}}\n").unwrap();
    let sources = Sources { file, ..Sources::default() };
    config::load(&sources, &[BOTH[0].schema]).unwrap().config.services
}
