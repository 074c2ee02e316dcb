//! Keys of instances: current and former ones, and what is sealed by them.

use super::*;

type Keys = InstanceKeysClient<Channel>;

async fn get_key(keys: &Keys, instance: InstanceId, key_id: &str) -> Result<(String, Vec<u8>), Problem> {
    let request = GetInstanceKeyRequest { instance_id: instance.to_string(), key_id: key_id.into() };
    let answer = keys.clone().get_instance_key(request).await.map_err(|status| from_status(&status))?;
    let answer = answer.into_inner();
    Ok((answer.key_id, answer.key.to_vec()))
}

async fn former(keys: &Keys) -> Vec<(String, u64)> {
    let request = ListFormerKeysRequest { after: String::new(), limit: 10 };
    let keys = keys.clone().list_former_keys(request).await.unwrap().into_inner().keys;
    keys.into_iter().map(|key| (key.key_id, key.former_for)).collect()
}

async fn rotate(keys: &Keys) -> String {
    let request = RotateInstanceKeyRequest { instance: "default".into() };
    keys.clone().rotate_instance_key(request).await.unwrap().into_inner().key_id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_one_current_key_and_former_ones_until_they_are_dropped() {
    let bench = Bench::start().await;
    let keys = Keys::new(Channel::local("instance-keys", bench.service.keys.clone()));
    let instance = bench.instance();
    let asked = futures::future::join_all((0..8).map(|_| get_key(&keys, instance, ""))).await;
    let (first, secret) = asked[0].clone().unwrap();
    assert!(asked.into_iter().all(|key| key.unwrap() == (first.clone(), secret.clone())));
    assert_eq!(secret.len(), 32);
    assert!(former(&keys).await.is_empty());

    let second = rotate(&keys).await;
    bench.clock.advance(Duration::from_secs(90));
    assert_eq!(get_key(&keys, instance, "").await.unwrap().0, second);
    assert_eq!(get_key(&keys, instance, &first).await.unwrap(), (first.clone(), secret));
    assert_eq!(former(&keys).await, [(first.clone(), 90)]);
    // Only a former one can be dropped.
    for key_id in [&first, &second] {
        keys.clone().drop_former_key(DropFormerKeyRequest { key_id: key_id.clone() }).await.unwrap();
    }
    assert_eq!(get_key(&keys, instance, &first).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(get_key(&keys, instance, "").await.unwrap().0, second);

    let other = InstanceId::new(bench.ids.ulid());
    assert_eq!(get_key(&keys, other, "").await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(get_key(&keys, other, &second).await.unwrap_err().code, ErrorCode::NotFound);

    let shred = |name: &str| {
        let request = ShredInstanceKeysRequest { instance: name.into() };
        let mut keys = keys.clone();
        async move { keys.shred_instance_keys(request).await }
    };
    assert_eq!(from_status(&shred("none").await.unwrap_err()).code, ErrorCode::NotFound);
    rotate(&keys).await;
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(shred("default").await.unwrap().into_inner().destroyed, 2);
    assert_eq!(get_key(&keys, instance, &second).await.unwrap_err().code, ErrorCode::NotFound);

    let audit = bench.audit().await;
    let kinds = audit.iter().map(|entry| entry.r#type.as_str()).filter(|kind| *kind != "user.created");
    let kinds: Vec<_> = kinds.collect();
    assert_eq!(kinds, ["instance_key.rotated", "instance_key.rotated", "instance_keys.shredded"]);
    assert!(audit.iter().all(|entry| entry.principal == "system:admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn data_keys_are_sealed_again_by_the_current_key() {
    let bench = Bench::start().await;
    let keys = Keys::new(Channel::local("instance-keys", bench.service.keys.clone()));
    let instance = bench.instance();
    let (first, secret) = get_key(&keys, instance, "").await.unwrap();
    let sealer = InstanceKey::new(first.clone(), &secret).unwrap();
    let data_key = new_data_key().unwrap();
    let wrapped = sealer.wrap("i/a/b", &data_key).unwrap();
    rotate(&keys).await;
    let key = |object: &str, key_id: &str, wrapped: &[u8]| DataKey {
        object: object.into(),
        key_id: key_id.into(),
        wrapped_key: wrapped.to_vec().into(),
    };
    let request = RewrapDataKeysRequest {
        instance_id: instance.to_string(),
        keys: vec![
            key("i/a/other", &first, &wrapped),
            key("i/a/b", "none", &wrapped),
            key("i/a/b", &first, &wrapped[1..]),
            key("i/a/b", &first, &wrapped),
        ],
    };
    let answer = keys.clone().rewrap_data_keys(request).await.unwrap().into_inner();
    let (second, secret) = get_key(&keys, instance, "").await.unwrap();
    assert_eq!(answer.key_id, second);
    assert!(answer.wrapped_keys[..3].iter().all(bytes::Bytes::is_empty));
    let opener = InstanceKey::new(second, &secret).unwrap();
    assert_eq!(opener.unwrap("i/a/b", &answer.wrapped_keys[3]).unwrap(), data_key);
}
