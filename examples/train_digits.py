"""An ordinary training script, of one process: a small network learns to read digits. docs/training-script.md has it trained by many.

Its data come with scikit-learn: pip install scikit-learn
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

epochs = 10


def train(loader, model, loss_fn, optimizer):
    model.train()
    for images, labels in loader:
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def test(loader, model):
    model.eval()
    right = sum((model(images).argmax(1) == labels).sum().item() for images, labels in loader)
    return right / len(loader.dataset)


torch.manual_seed(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target))
train_data, test_data = random_split(data, [0.8, 0.2])
train_loader = DataLoader(train_data, batch_size=32, shuffle=True)
test_loader = DataLoader(test_data, batch_size=128)

model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
for epoch in range(epochs):
    train(train_loader, model, nn.CrossEntropyLoss(), optimizer)
    accuracy = test(test_loader, model)
    print(f"epoch {epoch}: accuracy {accuracy:.1%}")
