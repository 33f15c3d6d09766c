//! An axum router as a deployment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{OriginalUri, Path, Query, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use decurion::prelude::{Deserialize, Value, deployment, json};

/// Counts what was asked for.
#[derive(Debug, Default)]
pub struct Shop {
    asked: Arc<AtomicU64>,
}

#[derive(Debug, Deserialize)]
struct Order {
    count: Option<u32>,
}

#[deployment]
impl Shop {
    fn ingress(&self) -> Router {
        Router::new()
            .route("/", get(|| async { "What do you want?" }))
            .route("/items/{item}", get(item))
            .route("/asked", get(asked))
            .route("/where", get(|OriginalUri(uri): OriginalUri| async move { uri.to_string() }))
            .route("/haggle", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(haggle) }))
            .route("/echo", post(|body: Body| async { body }))
            .with_state(Arc::clone(&self.asked))
    }
}

async fn item(
    State(asked): State<Arc<AtomicU64>>,
    Path(item): Path<u64>,
    Query(order): Query<Order>,
) -> Json<Value> {
    asked.fetch_add(1, Ordering::Relaxed);
    Json(json!({ "item": item, "count": order.count.unwrap_or(1) }))
}

async fn haggle(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let offer = message.to_text().ok().and_then(|text| text.parse::<u32>().ok());
        let answer = match offer {
            Some(10..) => "Sold!",
            Some(_) => "Too little.",
            None => continue,
        };
        if socket.send(answer.into()).await.is_err() {
            return;
        }
    }
}

async fn asked(State(asked): State<Arc<AtomicU64>>) -> String {
    asked.load(Ordering::Relaxed).to_string()
}
