//! The backend's side of enrolment, played by the test over a real broker.

use protocol::{
    ClientId, Timestamp,
    proof::Psk,
    registration::{Nonce, Reply, Request, open_request},
};
use testkit::{Endpoint, Watcher, publish};

use super::{SECRET, SOON};

/// Sees every request and every sign of life.
pub struct Backend {
    pub watcher: Watcher,
    endpoint: Endpoint,
}

impl Backend {
    /// Subscribed when it returns.
    pub async fn start(endpoint: impl Into<Endpoint>) -> Self {
        let endpoint = endpoint.into();
        let watcher = Watcher::start(&endpoint, "iot/#").await.unwrap();
        Self { watcher, endpoint }
    }

    /// Gives the next one who asks this id, and tells its client id.
    pub async fn enrol(&self, device_id: &str) -> String {
        let request = self.request().await;
        self.answer(&request, id(device_id)).await;
        request.client_id.as_str().to_owned()
    }

    /// The next request, whose proof is right.
    pub async fn request(&self) -> Request {
        let is_request = |topic: &str| topic.starts_with("iot/registration/") && !topic.ends_with("/reply");
        let message = self.watcher.next(|message| is_request(&message.topic), SOON).await.unwrap();
        let request = open_request(&psk(), &message.payload).unwrap();
        assert_eq!(message.topic, format!("iot/registration/{}", request.client_id));
        assert!(!message.retain);
        request
    }

    /// How many requests there have been.
    pub fn requests(&self) -> usize {
        let all = self.watcher.all();
        all.iter()
            .filter(|m| m.topic.starts_with("iot/registration/") && !m.topic.ends_with("/reply"))
            .count()
    }

    /// Answers a request as the contract says.
    pub async fn answer(&self, request: &Request, reply: Reply) {
        self.send(&request.client_id, signed(request, reply)).await;
    }

    /// Sends whatever to where `client_id` awaits its reply.
    pub async fn send(&self, client_id: &ClientId, payload: impl AsRef<[u8]>) {
        publish(&self.endpoint, &reply_topic(client_id), payload, 1, false).await.unwrap();
    }
}

pub fn reply_topic(client_id: &ClientId) -> String {
    format!("iot/registration/{client_id}/reply")
}

pub fn psk() -> Psk {
    Psk::from_file_bytes(SECRET.as_bytes()).unwrap()
}

pub fn nonce(request: &Request) -> Nonce {
    request.proof.as_ref().unwrap().nonce.clone()
}

pub fn timestamp(request: &Request) -> Timestamp {
    request.proof.as_ref().unwrap().timestamp
}

/// The authentic reply.
pub fn signed(request: &Request, reply: Reply) -> Vec<u8> {
    reply.signed(&psk(), &request.client_id, nonce(request))
}

pub fn id(id: &str) -> Reply {
    Reply { device_id: Some(id.parse().unwrap()), ..Reply::default() }
}

pub fn error(error: &str, message: &str) -> Reply {
    Reply { error: Some(error.into()), message: Some(message.into()), ..Reply::default() }
}

pub fn wrong_clock(server_time: Timestamp) -> Reply {
    Reply { error: Some("clock".into()), server_time: Some(server_time), ..Reply::default() }
}
