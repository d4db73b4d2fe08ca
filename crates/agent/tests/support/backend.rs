//! A backend that enrols devices: a peer that speaks the contract and shares nothing else with the agent.

use protocol::{
    proof::Psk,
    registration::{Reply, open_request},
};
use testkit::{Endpoint, Watcher, publish};

use super::{SECRET, SOON};

/// Hears every request.
pub struct Backend {
    endpoint: Endpoint,
    requests: Watcher,
}

impl Backend {
    /// Listens at a broker.
    pub async fn start(endpoint: impl Into<Endpoint>) -> Self {
        let endpoint = endpoint.into();
        let requests = Watcher::start(&endpoint, "iot/registration/+").await.unwrap();
        Self { endpoint, requests }
    }

    /// Gives the next one who asks this id, and tells its client id.
    pub async fn enrol(&self, device_id: &str) -> String {
        let psk = Psk::from_file_bytes(SECRET.as_bytes()).unwrap();
        let message = self.requests.next(|_| true, SOON).await.unwrap();
        let request = open_request(&psk, &message.payload).unwrap();
        assert_eq!(message.topic, format!("iot/registration/{}", request.client_id));
        let reply = Reply { device_id: Some(device_id.parse().unwrap()), ..Reply::default() };
        let reply = reply.signed(&psk, &request.client_id, request.proof.unwrap().nonce);
        publish(&self.endpoint, &format!("{}/reply", message.topic), reply, 1, false).await.unwrap();
        request.client_id.as_str().to_owned()
    }

    /// How many requests came.
    pub fn requests(&self) -> usize {
        self.requests.all().len()
    }
}
