//! What an edition allows, judged where it would be exceeded.

use berth_testkit::{Content, Manifest};

use crate::{Tenant, in_every_tenancy};

pub(crate) fn empty_index() -> Manifest {
    berth_testkit::Blob::json(
        "application/vnd.oci.image.index.v1+json",
        &serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [],
        }),
    )
}

in_every_tenancy! {
    async fn an_edition_bounds_namespaces_and_depth_and_is_lowered_only_when_it_fits(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "small", "personal").await;
        let owner = tenant.owner();
        let push = async |name: &str| owner.repository(name).put_manifest("v1", &empty_index()).await.unwrap();
        for namespace in ["one", "two", "three"] {
            push(&format!("{namespace}/app")).await.expect(201).unwrap();
        }
        let refused = push("four/app").await;
        assert_eq!((refused.status, refused.error_code().as_deref()), (403, Some("QUOTA_EXCEEDED")));
        let detail = refused.json()["errors"][0]["detail"].clone();
        assert_eq!(detail, serde_json::json!({ "used": 3, "limit": 3, "unit": "namespaces" }));
        let deep = push("one/a/b").await;
        assert_eq!((deep.status, deep.error_code().as_deref()), (400, Some("NAME_INVALID")));
        // Deleting is never blocked.
        assert_eq!(owner.repository("one/app").delete("manifests/v1").await.unwrap().status, 202);

        tenant.admin(&["set-edition", "small", "basic"]).await;
        push("four/app").await.expect(201).unwrap();
        push("one/a/b").await.expect(201).unwrap();
        let lowered = tenant.try_admin(&["set-edition", "small", "personal"], "").await.unwrap_err().to_string();
        for reason in ["4 of at most 3 namespaces", "2 of at most 1 parts in a repository's name"] {
            assert!(lowered.contains(reason), "{lowered}");
        }
        let shown = deployment.admin(&["instances"], "").await.unwrap();
        let shown = shown.lines().find(|line| line.contains("\"small\"")).unwrap();
        assert!(shown.contains("\"edition\":\"basic\"") && shown.contains("\"wished_edition\":null"), "{shown}");
        let more = ["set-edition", "small", "basic", "--more-namespaces", "5"];
        assert!(tenant.admin(&more).await.contains("\"image_namespaces\":20"));
    }

    async fn a_push_makes_a_namespace_only_where_the_instance_allows_it(deployment: &'static Deployment) {
        let tenant = Tenant::new(deployment, "closed", "basic").await;
        let owner = tenant.owner();
        let mut content = Content::named("closed");
        let image = content.image(1, 100);
        owner.repository("old/app").push_image("v1", &image).await.unwrap();
        tenant.admin(&["set-create-on-push", "closed", "false"]).await;
        // Whichever instance-manager process answers, it knows within its poll.
        let fresh = tenant.owner();
        fresh.repository("old/new").push_image("v1", &image).await.unwrap();
        let refused = fresh.repository("new/app").put_manifest("v1", &empty_index()).await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (401, Some("DENIED")));
    }
}
