use anyhow::Result;
use iot_agent_testkit::oldbroker::{Counts, OldBroker, Refusal};
use iot_agent_testkit::{Endpoint, Mosquitto, Watcher, publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::SOON;

const CONNECT_5: &[u8] = b"\x10\x0e\0\x04MQTT\x05\x02\0\x3c\0\0\x01x";

#[tokio::test]
async fn lets_in_3_1_1_and_nothing_else() -> Result<()> {
    let broker = Mosquitto::plain().await?;
    for (refusal, expected) in [(Refusal::Code1, &[0x20, 2, 0, 1][..]), (Refusal::Close, &[])] {
        let old = OldBroker::start(broker.addr(), refusal).await?;
        let mut stream = TcpStream::connect(old.addr()).await?;
        stream.write_all(CONNECT_5).await?;
        let mut answer = Vec::new();
        timeout(SOON, stream.read_to_end(&mut answer)).await??;
        assert_eq!(answer, expected, "{refusal:?}");
        assert!(publish(old.addr(), "t", "5", 1, false).await.is_err());

        let endpoint = Endpoint::from(old.addr()).v311();
        let watcher = Watcher::start(&endpoint, "t").await?;
        publish(&endpoint, "t", "4", 1, false).await?;
        assert_eq!(watcher.next_on("t", SOON).await?.text(), "4");
        assert_eq!(old.counts(), Counts { accepted: 2, refused: 2 });
    }
    Ok(())
}
