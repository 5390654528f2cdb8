//! Refused requests: what the operator finds of them, and what the person with a browser is told.

use super::{Server, WATCH, crlf};
use weir::SDP;

#[tokio::test]
async fn each_refused_offer_is_counted_by_its_reason() {
    let server = Server::new();
    let sdp = [("content-type", SDP)];
    server.call("POST", "/whip/a%20b", &sdp, "v=0").await.refused(400, "a bad name");
    server.call("POST", "/whip/demo", &sdp, "hello").await.refused(400, "no SDP");
    server.call("POST", "/whip/demo", &[], "v=0").await.refused(415, "no media type");
    server.call("POST", "/demo/whip", &sdp, "v=0").await.refused(404, "another server's form");
    let data_only = "v=0\no=- 1 1 IN IP4 0.0.0.0\ns=-\nt=0 0\n";
    server.call("POST", "/whep/demo", &sdp, &crlf(data_only)).await.refused(422, "nothing to send");
    assert_eq!(server.post("/whep/demo", WATCH).await.status, 201);
    // Not an offer.
    server.call("POST", "/whep/demo/secret/layer", &[], "{}").await;

    let stats = server.get("/api/v1/stats").await.json();
    let refused = &stats["offers_refused_total"];
    for (reason, count) in [
        ("malformed", 2),
        ("media_type", 1),
        ("wrong_url", 1),
        ("unacceptable", 1),
        ("conflict", 0),
    ] {
        assert_eq!(refused[reason], count, "{reason} {refused}");
    }
    let metrics = String::from_utf8(server.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("weir_offers_refused_total{reason=\"malformed\"} 2\n"), "{metrics}");
}
